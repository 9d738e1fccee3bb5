-- Read one session.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- ARGV[1]  session id
--
-- Returns the hash's fields and values, nothing when the session is not alive. Atomic because the
-- index decides whether what was read still counts.
if not session_live(KEYS[1], KEYS[2], ARGV[1], math.floor(now_us() / 1000)) then return {} end
return server.call('HGETALL', KEYS[2])
