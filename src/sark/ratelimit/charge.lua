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
-- Nothing is written before all keys have been read and understood. A refused request writes only
-- states that are not what their keys say: what another algorithm left, a count that lost its TTL, a
-- time that a clock which was set back has made impossible. A cost of 0 writes nothing at all.
--
-- Atomic because a request that one limit refuses must not be charged on the others, and two
-- requests may not both take the last place.
local function ratelimit_charge(first, count, start)
  if count == 0 then return {1} end
  local keys, args, now, call = KEYS, ARGV, now_us(), server.call
  local letters, byte, format = args[start], string.byte, string.format
  local stored = call('MGET', unpack(keys, first, first + count - 1))
  local reply, full, changed, after, behind = ratelimit_judge(first, count, start, now, stored)
  local admitted = reply[1] ~= 0
  if not admitted and not changed then return reply end
  local at, place, moment, empty = start + 1, 3, (now - now % 1000) / 1000
  for i = 1, count do
    if not stored[i] then
      empty = empty or {}
      empty[#empty + 1] = keys[first + i - 1]
    end
  end
  if empty then ratelimit_free(empty) end
  for i = 1, count do
    local key, letter, cost = keys[first + i - 1], byte(letters, i), args[at]
    local charged = admitted and not (full and full[i]) and cost ~= '0'
    local odd = changed and changed[i]
    local written = charged or (odd and cost ~= '0')
    if letter == 102 or letter == 70 then
      if charged and reply[place] > 0 and not odd then
        reply[place] = call('INCRBY', key, cost)
      elseif written then
        if charged then reply[place] = reply[place] + cost end
        call('SET', key, format('%d', reply[place]), 'PXAT', moment + reply[place + 1])
      end
      at, place = at + 3, place + 2
    elseif letter == 115 or letter == 83 then
      if written then
        local from, current = now - reply[place + 2], reply[place]
        if charged then current = current + cost end
        local ends = (from + 999 - (from + 999) % 1000) / 1000 + args[at + 2] * 2000
        local value = format('s%d:%d:%d', from, current, reply[place + 1])
        call('SET', key, value, 'PXAT', ends)
        reply[place] = current
      end
      at, place = at + 3, place + 3
    else
      if written then
        if charged then reply[place], reply[place + 1] = after[place], after[place + 1] end
        local tat, held = now + reply[place], behind and behind[i]
        local value, last = format('g%d:%d', tat, reply[place + 1]), tat + 1
        if held then
          value = format('%s:%d:%d', value, held[1] + (charged and cost or 0), held[2])
          last = math.max(last, held[2])
        end
        call('SET', key, value, 'PXAT', (last + 999 - (last + 999) % 1000) / 1000)
      end
      at, place = at + 4, place + 2
    end
  end
  return reply
end
