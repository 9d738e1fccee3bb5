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
-- Returns how far ahead of now that moment is, as microseconds and parts; the same after the cost;
-- and whether that is more than the burst.
local function ratelimit_gcra(key, stored, requests, window, burst, cost, now)
  local span = window * 1000000
  local rest = span % requests
  local whole = (span - rest) / requests
  local most_part = burst * rest % requests
  local most = burst * whole + (burst * rest - most_part) / requests
  local ahead, part = 0, 0
  if stored then
    local tat, rests = string.match(stored, '^g(%d+):(%d+)$')
    if tat then
      ahead, part = tat - now, rests + 0
      -- Of another rate: its parts are other ones, so a whole microsecond stands for them.
      if part >= requests then ahead, part = ahead + 1, 0 end
      if ahead < 0 then ahead, part = 0, 0 end
    else
      local used = ratelimit_convert(stored, key, requests, window, now)
      ahead = math.min(used, burst) * math.ceil(span / requests)
    end
    -- Of a larger burst, or by a clock that has been set back: the bucket is full, not more.
    if ahead > most or (ahead == most and part > most_part) then ahead, part = most, most_part end
  end
  local after_part = (part + cost * rest) % requests
  local after = ahead + cost * whole + (part + cost * rest - after_part) / requests
  return ahead, part, after, after_part, after > most or (after == most and after_part > most_part)
end
