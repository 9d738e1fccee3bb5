-- Record a refusal: the first of an identity and window as an event, the repeats as a count.
--
-- KEYS     as in refusals_close
-- ARGV[1]  name of the identity and window
-- ARGV[2]  milliseconds until the window ends
-- ARGV[3]  the event, should this be the first refusal
-- ARGV[4]  the closing event without its last members and its closing brace
-- ARGV[5]  spare id and ARGV[6] time, should an earlier window have to be closed first
-- ARGV[7]  most events, ARGV[8] most bytes
--
-- Returns {refusals in this window, closing event of the record}; the count is 0 when the queue
-- has no room. Atomic because exactly one refusal may be the first.
local name = ARGV[1]
local max_events, max_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local now_ms = now_us() / 1000
local due = server.call('ZSCORE', KEYS[3], name)
if due and tonumber(due) <= now_ms then
  if not refusals_close(name, ARGV[5], ARGV[6], max_events, max_bytes) then return {0, ''} end
  due = false
end
if due then
  return {server.call('HINCRBY', KEYS[2], name, 1), server.call('HGET', KEYS[1], name)}
end
if siem_append(KEYS[4], KEYS[5], max_events, max_bytes, ARGV, 3, 3) == 0 then return {0, ''} end
server.call('HSET', KEYS[1], name, ARGV[4])
server.call('HSET', KEYS[2], name, 1)
server.call('ZADD', KEYS[3], string.format('%.0f', now_ms + tonumber(ARGV[2])), name)
return {1, ARGV[4]}
