-- ratelimit_gcra(key, stored, requests, window, burst, cost, now): a token bucket, by the generic
-- cell rate algorithm (ITU-T I.371, annex A).
--
-- stored    what the key holds, or false
-- requests  requests in a window, sustained
-- window    its length in seconds
-- burst     most requests at once
--
-- The key holds g<tat>:<part>: when the bucket will be empty, in microseconds and in parts of one
-- microsecond, of which there are as many as requests per window. So a request takes exactly
-- window / requests, and all is whole numbers. The key expires when the bucket is empty.
--
-- A count of another algorithm that exceeds the burst fills the bucket, and stands behind it until
-- its window ends, as :<count>:<ends>: so that a rule that is changed back, or that processes have in
-- two forms while they are replaced, forgets nothing.
--
-- Returns how far ahead of now that moment is, as microseconds and parts; the same after the cost;
-- whether that is more than the burst; whether the first is not what the key says and so has to be
-- written; and the count and the end that stand behind it, if any.
local function ratelimit_gcra(key, stored, requests, window, burst, cost, now)
  local span = window * 1000000
  local rest = span % requests
  local whole = (span - rest) / requests
  local most_part = burst * rest % requests
  local most = burst * whole + (burst * rest - most_part) / requests
  local ahead, part, changed, count, ends = 0, 0
  if stored then
    local tat, rests = string.match(stored, '^g(%d+):(%d+)$')
    if not tat then
      tat, rests, count, ends = string.match(stored, '^g(%d+):(%d+):(%d+):(%d+)$')
      if ends and ends + 0 <= now then count, ends = nil, nil end
    end
    if tat then
      local exact = 9007199254740992
      ahead, part = tat - now, rests + 0
      if ahead + now >= exact or part >= exact
        or (ends and math.max(count, ends) >= exact) then
        error({err = 'ERR ' .. key .. ' holds no state of a limit'})
      end
      -- Of another rate: its parts are other ones, so a whole microsecond stands for them.
      if part >= requests then ahead, part = ahead + 1, 0 end
      if ahead < 0 then ahead, part = 0, 0 end
    else
      local used, left = ratelimit_convert(stored, key, requests, window, now)
      changed = used > 0
      if used > burst then used, count, ends = burst, used, now + left end
      part = used * rest % requests
      ahead = used * whole + (used * rest - part) / requests
    end
    -- Of a larger burst, or by a clock that has been set back: the bucket is full, not more.
    if ahead > most or (ahead == most and part > most_part) then
      ahead, part, changed = most, most_part, true
    end
  end
  local after_part = (part + cost * rest) % requests
  local after = ahead + cost * whole + (part + cost * rest - after_part) / requests
  local over = after > most or (after == most and after_part > most_part)
  return ahead, part, after, after_part, over, changed, count, ends
end
