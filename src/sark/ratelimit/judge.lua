-- ratelimit_judge(first, count, start, now, stored): whether limits admit a request; for
-- ratelimit_charge, which describes KEYS, ARGV and the reply.
--
-- stored  what the keys hold
--
-- Returns the reply as it is if nothing is charged; which limits would refuse, by number; and of
-- gcra, when the bucket would be empty after the request, as microseconds ahead and parts.
local function ratelimit_judge(first, count, start, now, stored)
  local keys, args, at, place = KEYS, ARGV, start + 1, 3
  local moment = (now - now % 1000) / 1000
  local reply, full, after, part = {1, now}, {}, {}, {}
  for i = 1, count do
    local key, value, letter = keys[first + i - 1], stored[i], string.byte(args[start], i)
    local cost, requests, window, over = args[at] + 0, args[at + 1] + 0, args[at + 2]
    if letter == 102 or letter == 70 then
      local used, left = ratelimit_fixed(key, value, requests, window, moment, now)
      reply[place], reply[place + 1] = used, left
      over = used + cost > requests
      at, place = at + 3, place + 2
    elseif letter == 115 or letter == 83 then
      local current, previous, gone, millionths =
        ratelimit_sliding(key, value, requests, window + 0, now)
      reply[place], reply[place + 1], reply[place + 2] = current, previous, gone
      over = millionths + cost * 1000000 > requests * 1000000
      at, place = at + 3, place + 3
    else
      reply[place], reply[place + 1], after[i], part[i], over =
        ratelimit_gcra(key, value, requests, window + 0, args[at + 3] + 0, cost, now)
      at, place = at + 4, place + 2
    end
    if over then
      full[i] = true
      if letter > 96 then reply[1] = 0 elseif reply[1] > 0 then reply[1] = reply[1] + 2 ^ i end
    end
  end
  return reply, full, after, part
end
