-- ratelimit_fixed(key, stored, requests, window, moment, now): what a fixed window has counted.
--
-- stored    what the key holds
-- requests  most requests in a window
-- window    its length in seconds
-- moment    now in milliseconds, as the expiry of keys is
--
-- The key holds the count and expires with its window, which begins with the first request that is
-- counted and is never extended. A count that lost its TTL is given a new window, and so is one whose
-- window would end later than a new one, since the clock has been set back; what another algorithm
-- has left becomes a count.
--
-- Returns the requests counted, the milliseconds left of their window, and whether that is not what
-- the key says and so has to be written.
local function ratelimit_fixed(key, stored, requests, window, moment, now)
  local used, whole = ratelimit_count(stored), window * 1000
  if not used then
    local left
    used, left = ratelimit_convert(stored, key, requests, window, now)
    return used, math.ceil(left / 1000), used > 0
  end
  local ends = server.call('PEXPIRETIME', key)
  local left = ends - moment
  if ends == -1 or left > whole then return used, whole, true end
  if left <= 0 then return 0, whole end
  return used, left
end
