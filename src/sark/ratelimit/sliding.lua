-- ratelimit_sliding(key, stored, requests, window, now): what a sliding window has counted.
--
-- stored    what the key holds, or false
-- requests  most requests in a window
-- window    its length in seconds
--
-- The sliding window is estimated from two adjacent fixed ones, of which the first begins with the
-- first request. The key holds s<start>:<current>:<previous>: when the current one began, in
-- microseconds, and the requests of it and of the one before. The earlier ones count by the share
-- of their window that the sliding one still covers, in millionths and rounded up, so that all is
-- whole numbers. A millionth of a window is as many microseconds as the window has seconds.
--
-- Returns the requests of both windows, the microseconds that are gone of the current one, and the
-- estimate in millionths of a request.
local function ratelimit_sliding(key, stored, requests, window, now)
  local current, previous, gone = 0, 0, 0
  if stored then
    local span = window * 1000000
    local start, first, second = string.match(stored, '^s(%d+):(%d+):(%d+)$')
    if start then
      current, previous, gone = first + 0, second + 0, math.max(0, now - start)
      if gone >= span then current, previous, gone = 0, current, gone - span end
      if gone >= span then previous, gone = 0, 0 end
    else
      local left
      current, left = ratelimit_convert(stored, key, requests, window, now)
      gone = span - left
    end
  end
  local weight = 1000000 - (gone - gone % window) / window
  return current, previous, gone, previous * weight + current * 1000000
end
