-- Take back the record of a first refusal that could not be made safe for every sink.
--
-- KEYS     the first three of refusals_close
-- ARGV[1]  name of the identity and window, ARGV[2] closing event of the record
--
-- Returns 1, or 0 when repeats have been counted to it: it then stays, so that they are told.
-- Atomic because a repeat may be counted at any moment.
if server.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if tonumber(server.call('HGET', KEYS[2], ARGV[1])) > 1 then return 0 end
server.call('HDEL', KEYS[1], ARGV[1])
server.call('HDEL', KEYS[2], ARGV[1])
server.call('ZREM', KEYS[3], ARGV[1])
return 1
