-- ratelimit_charge(first, count, start): charge several limits, all or nothing.
--
-- KEYS[first] to KEYS[first + count - 1]  what is counted, each of one limit of one identity
-- ARGV[start]                             a letter for each: f fixed, s sliding, g gcra; a capital
--                                         one only reports (shadow mode)
-- ARGV[start + 1 ..]                      three numbers for each: cost (0 only looks), requests, and
--                                         length of the window in seconds; for gcra also the burst
--
-- Returns {admitted, now, two or three for each limit ...}: 0 when a limit refuses, else 1 and, for
-- each limit i (from 1) that would have refused but only reports, 2^i more; the server's time in
-- microseconds; and, as it is after this call: requests used and milliseconds left (fixed); current,
-- previous and microseconds gone (sliding); microseconds ahead and parts (gcra).
--
-- Atomic because a request that one limit refuses must not be charged on the others, and two
-- requests may not both take the last place.
local function ratelimit_charge(first, count, start)
  if count == 0 then return {1} end
  local keys, args, now = KEYS, ARGV, now_us()
  local stored = server.call('MGET', unpack(keys, first, first + count - 1))
  local reply, full, after, part = ratelimit_judge(first, count, start, now, stored)
  if reply[1] == 0 then return reply end
  local at, place, moment = start + 1, 3, (now - now % 1000) / 1000
  for i = 1, count do
    local key, letter, cost = keys[first + i - 1], string.byte(args[start], i), args[at]
    local charged = not full[i] and cost ~= '0'
    if letter == 102 or letter == 70 then
      if charged and reply[place] > 0 then
        reply[place] = server.call('INCRBY', key, cost)
      elseif charged then
        ratelimit_keep(key, stored[i], cost, moment + reply[place + 1])
        reply[place] = cost + 0
      end
      at, place = at + 3, place + 2
    elseif letter == 115 or letter == 83 then
      if charged then
        local from, current = now - reply[place + 2], reply[place] + cost
        local value = string.format('s%.0f:%d:%d', from, current, reply[place + 1])
        ratelimit_keep(key, stored[i], value, math.ceil(from / 1000) + args[at + 2] * 2000)
        reply[place] = current
      end
      at, place = at + 3, place + 3
    else
      if charged then
        local value = string.format('g%.0f:%d', now + after[i], part[i])
        ratelimit_keep(key, stored[i], value, math.ceil((now + after[i] + 1) / 1000))
        reply[place], reply[place + 1] = after[i], part[i]
      end
      at, place = at + 4, place + 2
    end
  end
  return reply
end
