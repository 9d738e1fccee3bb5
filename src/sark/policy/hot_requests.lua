-- Adds one process's counts to the log of the most asked questions, and keeps the log bounded.
--
-- KEYS[1]   policy:hot_requests    questions by their count, decayed
-- ARGV[1]   most questions kept
-- ARGV[2]   life of the log without further counts, in milliseconds
-- ARGV[3]   least time between two decays, in milliseconds
-- ARGV[4]   time in which a count halves, in milliseconds
-- ARGV[5]   count below which a question is forgotten
-- ARGV[6..] count, question, count, question, ...: at most 200 pairs
--
-- The life is renewed with each decay, so what is left of it tells, by the server's clock, when the
-- last one was. A pause, however long, ages the log by one half-life only: the questions of the
-- evening are those of the next morning.
--
-- Returns how many questions are kept. Atomic because two processes that decay at once would do it
-- twice. The work is bounded by the number of questions kept and given.
local key, life = KEYS[1], tonumber(ARGV[2])
local left = server.call('PTTL', key)
local age = life - left
if left >= 0 and age >= tonumber(ARGV[3]) then
  local weight = math.max(0.5, 0.5 ^ (age / tonumber(ARGV[4])))
  server.call('ZUNIONSTORE', key, 1, key, 'WEIGHTS', string.format('%.17g', weight))
  server.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[5])
  left = -1
end
for i = 6, #ARGV, 2 do
  server.call('ZINCRBY', key, ARGV[i], ARGV[i + 1])
end
server.call('ZREMRANGEBYRANK', key, 0, -tonumber(ARGV[1]) - 1)
if left < 0 then server.call('PEXPIRE', key, ARGV[2]) end
return server.call('ZCARD', key)
