-- Claim records of refused identities whose window has ended long ago, to close them elsewhere.
--
-- KEYS     the first three of refusals_close
-- ARGV[1]  most records, at most some hundred
-- ARGV[2]  milliseconds since their window ended, at least
-- ARGV[3]  milliseconds for which nobody else claims them
--
-- Returns for each its name, closing event without the last members, and refusals so far, in turns.
-- Atomic because of several processes one may tell a record's count. A claim ends by itself, should
-- its process have been killed; refusals that come meanwhile are counted on.
local now_ms = now_us() / 1000
local before = string.format('%.0f', now_ms - tonumber(ARGV[2]))
local names = server.call('ZRANGE', KEYS[3], '-inf', before, 'BYSCORE', 'LIMIT', 0, ARGV[1])
local reply = {}
for _, name in ipairs(names) do
  -- Its own age is in the score, which has to be old enough again after the claim.
  local again = now_ms + tonumber(ARGV[3]) - tonumber(ARGV[2])
  server.call('ZADD', KEYS[3], string.format('%.0f', again), name)
  reply[#reply + 1] = name
  reply[#reply + 1] = server.call('HGET', KEYS[1], name) or ''
  reply[#reply + 1] = tonumber(server.call('HGET', KEYS[2], name) or 1)
end
return reply
