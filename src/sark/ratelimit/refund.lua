-- Give back what was charged on limits in one slot, because a limit in another slot has refused.
--
-- KEYS        what was charged, each of one limit of one identity
-- ARGV[1]     a letter for each: f fixed, s sliding, g gcra
-- ARGV[2]     when it was charged: the server's time that the charge returned
-- ARGV[3 ..]  four numbers for each: cost, requests and length of the window in seconds as they were
--             charged, and by what the window is known again, as the charge returned it:
--             milliseconds left (fixed), microseconds gone (sliding); anything for gcra
--
-- Returns how many were refunded. What has ended meanwhile has nothing to give back, and a window
-- that has begun since is not charged less for it: so a refund never admits more than the limit.
--
-- Atomic because between reading a state and writing it less the cost nobody may charge it.
local charged_at, now, refunded = tonumber(ARGV[2]), now_us(), 0
local stored = server.call('MGET', unpack(KEYS))

local function fixed(key, value, cost, left)
  local ends = math.floor(charged_at / 1000) + left
  if not tonumber(value) or ends <= now / 1000 then return false end
  if server.call('PEXPIRETIME', key) ~= ends then return false end
  return server.call('DECRBY', key, cost)
end

local function sliding(key, value, cost, gone, span)
  local start, current, previous = string.match(value, '^s(%d+):(%d+):(%d+)$')
  if start and start + gone == charged_at then
    current = current - cost
  elseif start and start + gone == charged_at + span then
    previous = previous - cost
  else
    return false
  end
  value = string.format('s%d:%d:%d', start, current, previous)
  return server.call('SET', key, value, 'KEEPTTL')
end

local function gcra(key, value, cost, requests, span)
  -- What stands behind a bucket (see gcra.lua) stays as it is.
  local tat, part, behind = string.match(value, '^g(%d+):(%d+)(.*)$')
  -- Without this charge the bucket might have been empty for as long as has passed since.
  local back = math.floor(cost * span / requests) - math.max(0, now - charged_at)
  if not tat or back <= 0 then return false end
  tat = tat - back
  if behind ~= '' then
    value = string.format('g%d:%d%s', math.max(tat, now), part, behind)
    return server.call('SET', key, value, 'KEEPTTL')
  end
  if tat <= now then return server.call('DEL', key) end
  value = string.format('g%d:%d', tat, part)
  return server.call('SET', key, value, 'PXAT', math.ceil((tat + 1) / 1000))
end

for i, key in ipairs(KEYS) do
  local at, letter, value, done = 4 * i - 1, string.byte(ARGV[1], i), stored[i], false
  local cost, requests = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local span, known = ARGV[at + 2] * 1000000, tonumber(ARGV[at + 3])
  if value and letter == 102 then
    done = fixed(key, value, cost, known)
  elseif value and letter == 115 then
    done = sliding(key, value, cost, known, span)
  elseif value then
    done = gcra(key, value, cost, requests, span)
  end
  if done then refunded = refunded + 1 end
end
return refunded
