-- ratelimit_convert(stored, key, requests, window, now): what another algorithm has left in a key.
--
-- stored    a count (fixed), s<start>:<current>:<previous> (sliding) or g<tat>:<part> (gcra); times
--           in microseconds
-- requests  the limit, in which a bucket's level is told
-- window    length of the window, which the key names, in seconds
--
-- Returns the requests that it stands for, rounded up, and the microseconds until a fixed window
-- with them would end. So a rule that changes its algorithm forgets nobody, and locks nobody out for
-- longer than a window.
local function ratelimit_convert(stored, key, requests, window, now)
  local span = window * 1000000
  local start, current, previous = string.match(stored, '^s(%d+):(%d+):(%d+)$')
  if start then
    local gone = math.max(0, now - start)
    if gone >= span then previous, current, gone = current, 0, gone - span end
    if gone >= span then return 0, span end
    local weight = 1000000 - math.floor(gone / window)
    return current + math.ceil(previous * weight / 1000000), span - gone
  end
  local tat = string.match(stored, '^g(%d+):%d+$')
  if tat then
    local ahead = tat + 1 - now
    if ahead <= 1 then return 0, span end
    return math.min(requests, math.ceil(ahead / span * requests)), math.min(ahead, span)
  end
  local used = tonumber(stored)
  if not used then error({err = 'ERR ' .. key .. ' holds no state of a limit'}) end
  local ends = server.call('PEXPIRETIME', key)
  local left = ends * 1000 - now
  if ends < 0 then return used, span end
  if left <= 0 then return 0, span end
  return used, math.min(left, span)
end
