-- Append one group of events to the queues of several sinks.
--
-- KEYS     queue and account of each sink, in turns
-- ARGV[1]  most events of a queue, ARGV[2] most bytes
-- ARGV[3]  line of the account, ARGV[4] 1 to drop the oldest events where there is no room
-- ARGV[5..] events
--
-- Returns for each sink how many it took, the first so many, and how many it dropped for that.
-- Atomic so that a group costs one round trip however many sinks there are; each sink's part is by
-- itself.
local max_events, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = {}
for i = 1, #KEYS, 2 do
  local dropped = 0
  if ARGV[4] == '1' then
    dropped = siem_drop(KEYS[i], KEYS[i + 1], max_events, max_bytes, ARGV, 5, #ARGV)
  end
  reply[i] = siem_append(KEYS[i], KEYS[i + 1], max_events, max_bytes, ARGV[3], ARGV, 5, #ARGV)
  reply[i + 1] = dropped
end
return reply
