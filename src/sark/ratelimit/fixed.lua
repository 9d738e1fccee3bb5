-- ratelimit_fixed(key, stored, requests, window, moment, now): what a fixed window has counted.
--
-- stored    what the key holds, or false
-- requests  most requests in a window
-- window    its length in seconds
-- moment    now in milliseconds, as the expiry of keys is
--
-- The key holds the count and expires with its window, which begins with the first request that is
-- counted and is never extended. A count that lost its TTL is given a new window; what another
-- algorithm has left becomes a count.
--
-- Returns the requests counted, and the milliseconds left of their window.
local function ratelimit_fixed(key, stored, requests, window, moment, now)
  if not stored then return 0, window * 1000 end
  local used, ends = tonumber(stored)
  if used then
    ends = server.call('PEXPIRETIME', key)
    if ends > moment then return used, ends - moment end
    if ends ~= -1 then return 0, window * 1000 end
    ends = moment + window * 1000
    server.call('PEXPIREAT', key, ends)
  else
    local left
    used, left = ratelimit_convert(stored, key, requests, window + 0, now)
    ends = moment + math.ceil(left / 1000)
    server.call('SET', key, used, 'PXAT', ends)
  end
  return used, ends - moment
end
