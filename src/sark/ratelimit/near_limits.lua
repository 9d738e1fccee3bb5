-- Merge notes of limits that are more than half used into the list of them.
--
-- KEYS[1]     ratelimit:top, a sorted set: <kind>:<id>:<window>[:<rule>] and what the limit is, by a score of two parts, the
--             second in which the limit is reset times 1,000, and how much is used in thousandths
--             (999 at most)
-- ARGV[1]     most to keep
-- ARGV[2 ..]  member, thousandths and seconds until the reset, of each note
--
-- Returns how many are kept. What has been reset goes; of the rest the most used stay. The work is
-- bounded by the number kept and that of the notes.
--
-- Atomic because two processes that merge at once would otherwise drop each other's notes.
local now, most = math.floor(now_us() / 1000000), tonumber(ARGV[1])
for i = 2, #ARGV, 3 do
  local ends = now + tonumber(ARGV[i + 2])
  server.call('ZADD', KEYS[1], ends * 1000 + math.min(999, ARGV[i + 1]), ARGV[i])
end
server.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now * 1000)
local found = server.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local kept = #found / 2
if kept > most then
  local used, order = {}, {}
  for i = 1, #found, 2 do
    order[#order + 1] = found[i]
    used[found[i]] = tonumber(found[i + 1]) % 1000
  end
  table.sort(order, function(one, other) return used[one] < used[other] end)
  for i = 1, kept - most do server.call('ZREM', KEYS[1], order[i]) end
  kept = most
end
local last = server.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then server.call('EXPIREAT', KEYS[1], math.floor(last[2] / 1000) + 1) end
return kept
