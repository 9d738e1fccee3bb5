-- Stores a decision, unless one that began to be evaluated later is there.
--
-- KEYS[1]  policy:decision:<hash>
-- ARGV[1]  the entry, or a withdrawal
-- ARGV[2]  when its evaluation began, in microseconds of the state server's clock
-- ARGV[3]  its life in seconds
-- ARGV[4]  channel on which processes that hold an earlier decision learn of it; empty: none do
-- ARGV[5]  message for them
-- ARGV[6]  1 to store only where nothing is stored, else 0
--
-- Returns 1, or 0 when nothing was stored.
--
-- Atomic because of two evaluations that end at the same time only the one that began later may
-- stay: whoever was answered by it must not see the earlier one afterwards.
local MOMENT = '(' .. string.rep('[0-9a-z]', 10) .. ')'
-- Not GET, which fails on a value of another type.
local previous = server.call('MGET', KEYS[1])[1]
local began
if previous then
  -- Plain, and behind the frame of a compressed entry; see decision.py.
  began = string.match(previous, '^{"v":"2' .. MOMENT)
    or string.match(previous, '^P%*M\024\010%z%z%z' .. MOMENT)
end
local stored = not began or tonumber(began, 36) <= tonumber(ARGV[2])
if previous and ARGV[6] == '1' then stored = false end
if stored then server.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3]) end
-- Also when a later one is there: whoever stored that had nothing to replace, perhaps.
if ARGV[4] ~= '' then server.call('PUBLISH', ARGV[4], ARGV[5]) end
return stored and 1 or 0
