-- Refuse one access token from now on; its session goes on.
--
-- KEYS[1]  session:token:<jti>
-- ARGV[1]  milliseconds until no process would accept the token any more
--
-- Returns 1. An empty value, which is no session's id, stays in the token's place: without it the
-- token of an outside provider would be taken for one that was never seen.
-- One command in effect; a script so that it can be waited for like the other revocations.
server.call('SET', KEYS[1], '', 'PX', ARGV[1])
return 1
