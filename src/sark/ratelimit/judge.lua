-- ratelimit_judge(first, count, start, now, stored): whether limits admit a request; for
-- ratelimit_charge, which describes KEYS, ARGV and the reply. Writes nothing.
--
-- stored  what the keys hold
--
-- Returns the reply as it is if nothing is charged; by number, which limits would refuse and which
-- states are not what their keys say (nil for none); of gcra, when the bucket would be empty after the
-- request, as microseconds ahead and parts, at the places of the same in the reply; and by number the
-- count and the end that stand behind a bucket (nil for none). Tables are made when they are needed:
-- they take a good part of the time.
local function ratelimit_judge(first, count, start, now, stored)
  local keys, args, at, place, byte = KEYS, ARGV, start + 1, 3, string.byte
  local letters, moment = args[start], (now - now % 1000) / 1000
  local reply, full, changed, after, behind = {1, now}
  for i = 1, count do
    local key, value, letter = keys[first + i - 1], stored[i], byte(letters, i)
    local cost, requests, window = args[at] + 0, args[at + 1] + 0, args[at + 2] + 0
    local over, odd
    if letter == 102 or letter == 70 then
      local used, left = 0, window * 1000
      if value then
        used, left, odd = ratelimit_fixed(key, value, requests, window, moment, now)
      end
      reply[place], reply[place + 1] = used, left
      over = used + cost > requests
      at, place = at + 3, place + 2
    elseif letter == 115 or letter == 83 then
      local current, previous, gone, millionths
      current, previous, gone, millionths, odd =
        ratelimit_sliding(key, value, requests, window, now)
      reply[place], reply[place + 1], reply[place + 2] = current, previous, gone
      over = millionths + cost * 1000000 > requests * 1000000
      at, place = at + 3, place + 3
    else
      local held, ends
      after = after or {}
      reply[place], reply[place + 1], after[place], after[place + 1], over, odd, held, ends =
        ratelimit_gcra(key, value, requests, window, args[at + 3] + 0, cost, now)
      if ends then
        behind = behind or {}
        behind[i] = {held, ends}
      end
      at, place = at + 4, place + 2
    end
    if odd then
      changed = changed or {}
      changed[i] = true
    end
    if over then
      full = full or {}
      full[i] = true
      if letter > 96 then reply[1] = 0 elseif reply[1] > 0 then reply[1] = reply[1] + 2 ^ i end
    end
  end
  return reply, full, changed, after, behind
end
