-- ratelimit_judge(first, count, start, now, stored): whether limits admit a request; for
-- ratelimit_charge, which describes KEYS, ARGV and the reply. Writes nothing.
--
-- stored  what the keys hold
--
-- Returns the reply as it is if nothing is charged; which limits would refuse, by number; which
-- states are not what their keys say; and of gcra, by number, when the bucket would be empty after the
-- request, as microseconds ahead and parts, and the count and the end that stand behind its state.
local function ratelimit_judge(first, count, start, now, stored)
  local keys, args, at, place = KEYS, ARGV, start + 1, 3
  local letters, moment = args[start], (now - now % 1000) / 1000
  local reply, full, changed, buckets = {1, now}, {}, {}, {}
  for i = 1, count do
    local key, value, letter = keys[first + i - 1], stored[i], string.byte(letters, i)
    local cost, requests, window, over = args[at] + 0, args[at + 1] + 0, args[at + 2] + 0
    if letter == 102 or letter == 70 then
      local used, left = 0, window * 1000
      if value then
        used, left, changed[i] = ratelimit_fixed(key, value, requests, window, moment, now)
      end
      reply[place], reply[place + 1] = used, left
      over = used + cost > requests
      at, place = at + 3, place + 2
    elseif letter == 115 or letter == 83 then
      local current, previous, gone, millionths, rolled =
        ratelimit_sliding(key, value, requests, window, now)
      reply[place], reply[place + 1], reply[place + 2], changed[i] = current, previous, gone, rolled
      over = millionths + cost * 1000000 > requests * 1000000
      at, place = at + 3, place + 3
    else
      local ahead, part, after, after_part, behind, ends
      ahead, part, after, after_part, over, changed[i], behind, ends =
        ratelimit_gcra(key, value, requests, window, args[at + 3] + 0, cost, now)
      reply[place], reply[place + 1] = ahead, part
      buckets[i] = {after, after_part, behind, ends}
      at, place = at + 4, place + 2
    end
    if over then
      full[i] = true
      if letter > 96 then reply[1] = 0 elseif reply[1] > 0 then reply[1] = reply[1] + 2 ^ i end
    end
  end
  return reply, full, changed, buckets
end
