-- Round trip 1 of authorize(): check the session, charge the rate limits, then look the decision up.
--
-- KEYS[1 .. 3]          as in session_check; left out when there is no access token
-- then n counters, as in ratelimit_charge
-- then 3 generations and the decision, as in policy_lookup; the last is left out when another
--                       server holds the decisions
-- ARGV[1 .. 5]          as in session_check; ARGV[1] is empty when there is no access token
-- ARGV[6]               n
-- ARGV[7], ARGV[8]      nonce and life of a user's token, as in policy_lookup
-- ARGV[9 ..]            limits and costs, as in ratelimit_charge
--
-- Returns {session} when the session is refused, {session, charge} when a limit refuses, else
-- {session, charge, lookup}.
local session, first = 'ok', 1
if ARGV[1] ~= '' then
  session, first = session_check(1, 1), 4
  if session ~= 'ok' then return {session} end
end
local counters = tonumber(ARGV[6])
local charge = ratelimit_charge(first, counters, 9)
if charge[1] == 0 then return {session, charge} end
return {session, charge, policy_lookup(first + counters, ARGV[7], tonumber(ARGV[8]))}
