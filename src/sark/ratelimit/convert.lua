-- ratelimit_convert(stored, key, requests, window, now): what another algorithm has left in a key.
--
-- stored    a count (fixed), s<start>:<current>:<previous> (sliding) or g<tat>:<part> (gcra), the
--           last one possibly with :<count>:<ends>, see gcra.lua; times in microseconds
-- requests  the limit, in which a bucket's level is told
-- window    length of the window, which the key names, in seconds
--
-- Returns the requests that it stands for, rounded up, and the microseconds until a fixed window
-- with them would end. So a rule that changes its algorithm forgets nobody, and locks nobody out for
-- longer than a window. What is none of the three is an error, before anything has been written.
local function ratelimit_convert(stored, key, requests, window, now)
  local span, exact = window * 1000000, 9007199254740992
  local start, current, previous = string.match(stored, '^s(%d+):(%d+):(%d+)$')
  if start and start + 0 < exact and current + 0 < exact and previous + 0 < exact then
    local gone = math.max(0, now - start)
    if gone >= span then previous, current, gone = current, 0, gone - span end
    if gone >= span then return 0, span end
    local weight = 1000000 - math.floor(gone / window)
    return current + math.ceil(previous * weight / 1000000), span - gone
  end
  local tat, count, ends = string.match(stored, '^g(%d+):%d+$')
  if not tat then tat, count, ends = string.match(stored, '^g(%d+):%d+:(%d+):(%d+)$') end
  if tat and tat + 0 < exact and (count or 0) + 0 < exact and (ends or 0) + 0 < exact then
    local ahead, used = tat + 1 - now, 0
    if ahead > 1 then used = math.min(requests, math.ceil(ahead / span * requests)) end
    if ends and ends + 0 > now then
      return math.max(used, count + 0), math.min(ends - now, span)
    end
    return used, used > 0 and math.min(ahead, span) or span
  end
  local used = ratelimit_count(stored)
  if not used then error({err = 'ERR ' .. key .. ' holds no state of a limit'}) end
  local left = server.call('PEXPIRETIME', key) * 1000 - now
  -- Without a TTL, or by a clock that has been set back: a whole window.
  if left < -now or left > span then return used, span end
  if left <= 0 then return 0, span end
  return used, left
end
