-- Round trip 1 of authorize_many(): charge all questions at once, then look all decisions up.
--
-- KEYS[1 .. n]      counters, as in ratelimit_charge
-- KEYS[n + 1 ..]    as in policy_lookup_many
-- ARGV[1]           n
-- ARGV[2], ARGV[3]  nonce and life of a user's token, as in policy_lookup
-- ARGV[4]           number of policies
-- ARGV[5 ..]        limits and costs, as in ratelimit_charge
--
-- Returns {charge} when a limit refuses, else {charge, look-ups}.
local counters = tonumber(ARGV[1])
local charge = ratelimit_charge(1, counters, 5)
if charge[1] == 0 then return {charge} end
return {charge, policy_lookup_many(counters + 1, tonumber(ARGV[4]), ARGV[2], tonumber(ARGV[3]))}
