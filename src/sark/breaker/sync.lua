-- Bring the results of one process, and take the state.
--
-- KEYS, ARGV[1 .. 12]  see keys.lua
-- ARGV[13]             period in which the counted calls were admitted
-- ARGV[14 .. 19]       calls, failures, slow, leading, longest and trailing run of failures
-- ARGV[20]             why the last of them failed
-- ARGV[21 ..]          token, outcome and reason of each probe that has ended, at most 100
--
-- Returns the view. With nothing to bring it only reads.
local c, now = breaker_config(), now_us()
local b = breaker_load(now)
local tally = {}
for i, name in ipairs({'calls', 'failures', 'slow', 'leading', 'longest', 'trailing'}) do
  tally[name] = tonumber(ARGV[13 + i])
end
breaker_report(b, c, now, tonumber(ARGV[13]), tally, ARGV[20], c.jitter)
for i = 21, #ARGV, 3 do
  breaker_conclude(b, c, now, tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], c.jitter)
end
breaker_save(b)
return breaker_view(b, c, now)
