-- ratelimit_charge(first, count, start): what charge.lua does, for fixed windows that all refuse and
-- all are charged the same; nearly all requests are of that kind, and this is faster.
--
-- KEYS[first] to KEYS[first + count - 1]  counters, each of one limit of one identity
-- ARGV[start]                             cost, at least 1
-- ARGV[start + 1 ..]                      requests and length of the window in seconds of each
--
-- Returns {admitted, 0, two for each limit ...}: 1 or 0; then the requests used and the milliseconds
-- left of each window, as they are after this call. Windows end as their keys expire.
--
-- Atomic for the same reasons.
local function ratelimit_charge(first, count, start)
  if count == 0 then return {1} end
  local keys, args, call = KEYS, ARGV, server.call
  local cost, reply = args[start] + 0, {1, 0}
  local stored = call('MGET', unpack(keys, first, first + count - 1))
  for i = 1, count do
    local value, requests = stored[i], args[start + 2 * i - 1]
    local used = 0
    if value then
      used = tonumber(value)
      if not used then
        local key, window, now = keys[first + i - 1], args[start + 2 * i], now_us()
        used = ratelimit_fixed(key, value, requests + 0, window + 0, math.floor(now / 1000), now)
      end
    end
    if used + cost > requests + 0 then reply[1] = 0 end
    reply[2 * i + 1] = used
  end
  local admitted = reply[1] == 1
  for i = 1, count do
    local key, left = keys[first + i - 1]
    if stored[i] then
      if admitted then reply[2 * i + 1] = call('INCRBY', key, args[start]) end
      left = call('PTTL', key)
      if left == -1 then
        left = args[start + 2 * i] * 1000
        call('PEXPIRE', key, left)
      end
    else
      left = args[start + 2 * i] * 1000
      if admitted then
        if not call('SET', key, args[start], 'PX', left, 'NX') then
          error({err = 'WRONGTYPE ' .. key .. ' holds no state of a limit'})
        end
        reply[2 * i + 1] = cost
      end
    end
    reply[2 * i + 2] = left
  end
  return reply
end
