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
-- whole numbers. A millionth of a window is as many microseconds as the window has seconds. Where the
-- clock has been set back to before its start, the current window begins now.
--
-- Returns the requests of both windows, the microseconds that are gone of the current one, the
-- estimate in millionths of a request, and whether that is not what the key says and so has to be
-- written.
local function ratelimit_sliding(key, stored, requests, window, now)
  if not stored then return 0, 0, 0, 0 end
  local span, changed = window * 1000000
  local gone = 0
  local start, current, previous = string.match(stored, '^s(%d+):(%d+):(%d+)$')
  if start then
    start, current, previous = start + 0, current + 0, previous + 0
    local exact = 9007199254740992
    if start >= exact or current >= exact or previous >= exact then
      error({err = 'ERR ' .. key .. ' holds no state of a limit'})
    end
    gone, changed = now - start, start > now
    if changed then gone = 0 end
    if gone >= span then current, previous, gone = 0, current, gone - span end
    if gone >= span then previous, gone = 0, 0 end
  else
    local left
    current, left = ratelimit_convert(stored, key, requests, window, now)
    previous, gone, changed = 0, span - left, current > 0
  end
  local weight = 1000000 - (gone - gone % window) / window
  return current, previous, gone, previous * weight + current * 1000000, changed
end
