-- End one session.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- ARGV[1]  session id
--
-- Returns 1 when it was alive, else 0. Its tokens need no deletion: they are refused without it.
--
-- It always writes. The caller waits until what its connection wrote is safe (WAIT, WAITAOF); a
-- repeat that found nothing to do would otherwise be told so while the first attempt, which came
-- by another connection, could still be lost.
--
-- Atomic because nobody may find its hash without its place in the index.
local alive = session_live(KEYS[1], KEYS[2], ARGV[1], math.floor(now_us() / 1000))
server.call('ZADD', KEYS[1], 0, ARGV[1])
session_end(KEYS[1], KEYS[2], ARGV[1])
-- What is left is an outside provider's, which a newer token must not begin anew.
if server.call('EXISTS', KEYS[2]) == 1 then server.call('HSET', KEYS[2], 'revoked', 1) end
return alive and 1 or 0
