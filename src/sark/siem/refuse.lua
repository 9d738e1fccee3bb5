-- Record a refusal: the first of an identity and window as an event, the repeats as a count.
--
-- KEYS     as in refusals_close
-- ARGV[1]  name of the identity and window
-- ARGV[2]  milliseconds until the window ends
-- ARGV[3]  the event, should this be the first refusal
-- ARGV[4]  the closing event without its last members and its closing brace
-- ARGV[5]  spare id and ARGV[6] time, should an earlier window have to be closed first
-- ARGV[7]  most events, ARGV[8] most bytes
-- ARGV[9]  1 when the caller can spill what a queue does not take
-- ARGV[10] for each sink 1, or 0 when earlier events of it are spilled, so that this one must be too
--
-- Returns {refusals in this window, closing event of the record, for each sink 1 when its queue has
-- the event}; the count is 0 when there is no room. While an earlier window cannot be closed, for
-- want of room, its record goes on counting. There are no more records than a queue holds events:
-- beyond that every refusal is an event. Atomic because exactly one refusal may be the first.
local name, spills = ARGV[1], ARGV[9] == '1'
local max_events, max_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local in_order = not string.find(ARGV[10], '0', 1, true)
local now_ms = now_us() / 1000
local due = server.call('ZSCORE', KEYS[3], name)
if due and tonumber(due) <= now_ms then
  if in_order and refusals_close(name, ARGV[5], ARGV[6], max_events, max_bytes) then
    due = false
  elseif not spills then
    return {0, '', ''}
  end
end
if due then
  return {server.call('HINCRBY', KEYS[2], name, 1), server.call('HGET', KEYS[1], name), ''}
end
if not spills and not (in_order and refusals_room(#ARGV[3], max_events, max_bytes)) then
  return {0, '', ''}
end
local taken = {}
for i = 4, #KEYS, 2 do
  local nth = i / 2 - 1
  taken[nth] = string.sub(ARGV[10], nth, nth)
  if taken[nth] == '1' then
    taken[nth] = siem_append(KEYS[i], KEYS[i + 1], max_events, max_bytes, 'accepted', ARGV, 3, 3)
  end
end
if server.call('ZCARD', KEYS[3]) < max_events then
  server.call('HSET', KEYS[1], name, ARGV[4])
  server.call('HSET', KEYS[2], name, 1)
  server.call('ZADD', KEYS[3], string.format('%.0f', now_ms + tonumber(ARGV[2])), name)
end
return {1, ARGV[4], table.concat(taken)}
