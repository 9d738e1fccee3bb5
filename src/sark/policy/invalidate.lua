-- Writes a new generation token: every decision stamped with the previous one is a miss.
--
-- KEYS[1]  the token's key
-- ARGV[1]  nonce, as in next_token
-- ARGV[2]  life of the token in milliseconds, 0 for a permanent one
-- ARGV[3]  channel on which processes learn of it: "<scope> <token> <key>"
-- ARGV[4]  scope: all, policy or user
--
-- Returns the token. Atomic because tokens must be ordered: later than the previous one whatever
-- the clock did in between.
local token = next_token(server.call('GET', KEYS[1]), ARGV[1])
if ARGV[2] == '0' then
  server.call('SET', KEYS[1], token)
else
  server.call('SET', KEYS[1], token, 'PX', ARGV[2])
end
server.call('PUBLISH', ARGV[3], ARGV[4] .. ' ' .. token .. ' ' .. KEYS[1])
return token
