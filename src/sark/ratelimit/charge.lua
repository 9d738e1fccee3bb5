-- ratelimit_charge(first, count, at): charge fixed windows for several identities, all or nothing.
--
-- KEYS[first] to KEYS[first + count - 1]  counters, each of one identity
-- ARGV[at]                                how many requests to charge
-- ARGV[at + 1 + 2 * i], ARGV[at + 2 + 2 * i]
--                                         limit and window in milliseconds of counter i (from 0)
--
-- A window begins with the first request that is counted in it and ends when its key expires; the
-- TTL is set once, never renewed. A counter that lost its TTL is given a new window.
--
-- Returns {admitted (1 or 0), used 1, left 1 in milliseconds, used 2, left 2, ...}: the requests
-- counted in each window after this call, and the time until it ends.
--
-- Atomic because a request that one counter refuses must not be charged on the others, and two
-- requests may not both take the last place.
local function ratelimit_charge(first, count, at)
  if count == 0 then return {1} end
  local reply, cost = {1}, tonumber(ARGV[at])
  local counted = server.call('MGET', unpack(KEYS, first, first + count - 1))
  for i = 0, count - 1 do
    local used = tonumber(counted[i + 1] or 0)
    if used + cost > tonumber(ARGV[at + 1 + 2 * i]) then reply[1] = 0 end
    reply[2 + 2 * i] = used
  end
  for i = 0, count - 1 do
    local key, window = KEYS[first + i], tonumber(ARGV[at + 2 + 2 * i])
    local left = reply[2 + 2 * i] > 0 and server.call('PTTL', key) or -2
    if reply[1] == 1 then
      reply[2 + 2 * i] = server.call('INCRBY', key, cost)
      if left < 0 then server.call('PEXPIRE', key, window) end
    elseif left == -1 then
      server.call('PEXPIRE', key, window)
    end
    reply[3 + 2 * i] = left < 0 and window or left
  end
  return reply
end
