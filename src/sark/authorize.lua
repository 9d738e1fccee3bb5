-- Round trip 1 of authorize(): charge the rate limits, then look the decision up.
--
-- KEYS[1 .. n]          counters, as in ratelimit_charge
-- KEYS[n + 1 .. n + 4]  generations and decision, as in policy_lookup; the last is left out when
--                       another server holds the decisions
-- ARGV[1]               n
-- ARGV[2], ARGV[3]      nonce and life of a user's token, as in policy_lookup
-- ARGV[4 ..]            limits and costs, as in ratelimit_charge
--
-- Returns {charge} when a limit refuses, else {charge, lookup}.
local counters = tonumber(ARGV[1])
local charge = ratelimit_charge(1, counters, 4)
if charge[1] == 0 then return {charge} end
return {charge, policy_lookup(counters + 1, ARGV[2], tonumber(ARGV[3]))}
