-- ratelimit_charge(first, count, start): what charge.lua does, for fixed windows that all refuse and
-- all are charged the same; nearly all requests are of that kind, and this is faster.
--
-- KEYS[first] to KEYS[first + count - 1]  counters, each of one limit of one identity
-- ARGV[start]                             cost, at least 1
-- ARGV[start + 1 ..]                      requests and length of the window in seconds of each
--
-- Returns {admitted, now, two for each limit ...}: 1 or 0; the server's time in microseconds; then the
-- requests used and the milliseconds left of each window, as they are after this call.
--
-- Atomic for the same reasons.
local function ratelimit_charge(first, count, start)
  if count == 0 then return {1} end
  local keys, args, call, now = KEYS, ARGV, server.call, now_us()
  local moment, cost, reply = (now - now % 1000) / 1000, args[start] + 0, {1, now}
  local stored = call('MGET', unpack(keys, first, first + count - 1))
  local changed, empty
  for i = 1, count do
    local value, requests, window = stored[i], args[start + 2 * i - 1] + 0, args[start + 2 * i] + 0
    local used, left, odd = 0, window * 1000
    if value then
      used, left, odd = ratelimit_fixed(keys[first + i - 1], value, requests, window, moment, now)
      if odd then
        changed = changed or {}
        changed[i] = true
      end
    else
      empty = empty or {}
      empty[#empty + 1] = keys[first + i - 1]
    end
    if used + cost > requests then reply[1] = 0 end
    reply[2 * i + 1], reply[2 * i + 2] = used, left
  end
  local admitted = reply[1] == 1
  if not admitted and not changed then return reply end
  if empty then ratelimit_free(empty) end
  for i = 1, count do
    local key, used, odd = keys[first + i - 1], reply[2 * i + 1], changed and changed[i]
    if admitted and used > 0 and not odd then
      reply[2 * i + 1] = call('INCRBY', key, args[start])
    elseif admitted or odd then
      if admitted then used = used + cost end
      call('SET', key, string.format('%d', used), 'PXAT', moment + reply[2 * i + 2])
      reply[2 * i + 1] = used
    end
  end
  return reply
end
