-- Round trip 1 of authorize_many(): check the session once, charge all questions at once, then look
-- all decisions up.
--
-- KEYS[1 .. 3]      as in session_check; left out when there is no access token
-- then n counters, as in ratelimit_charge
-- then the keys of policy_lookup_many
-- ARGV[1 .. 5]      as in session_check; ARGV[1] is empty when there is no access token
-- ARGV[6]           n
-- ARGV[7], ARGV[8]  nonce and life of a user's token, as in policy_lookup
-- ARGV[9]           number of policies
-- ARGV[10 ..]       limits and costs, as in ratelimit_charge
--
-- Returns {session} when the session is refused, {session, charge} when a limit refuses, else
-- {session, charge, look-ups}.
local session, first = 'ok', 1
if ARGV[1] ~= '' then
  session, first = session_check(1, 1), 4
  if session ~= 'ok' then return {session} end
end
local counters = tonumber(ARGV[6])
local charge = ratelimit_charge(first, counters, 10)
if charge[1] == 0 then return {session, charge} end
local policies, user_ttl_ms = tonumber(ARGV[9]), tonumber(ARGV[8])
return {session, charge, policy_lookup_many(first + counters, policies, ARGV[7], user_ttl_ms)}
