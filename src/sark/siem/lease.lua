-- Lease events from the head of a queue to one worker.
--
-- KEYS[1]  queue, KEYS[2] dead letters, KEYS[3] leases, KEYS[4] account, KEYS[5] expiries
-- KEYS[6]  the worker's events in flight
-- ARGV[1]  worker, ARGV[2] most events, ARGV[3] most bytes, ARGV[4] milliseconds of the lease
-- ARGV[5]  most dead letters, ARGV[6] most bytes of them
-- ARGV[7]  from how many outlived leases on an event is leased alone
--
-- Returns 'held' when the worker holds a lease, 'full' when there is no room for a dead letter,
-- {} when nothing is queued, else {token, events, how many are still queued}.
--
-- Atomic because an event may be leased by one worker only, and must never be in neither list.
local queue, account = KEYS[1], KEYS[4]
if server.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 'held' end
siem_adopt(account)
local failed_bytes = tonumber(server.call('HGET', account, 'failed_bytes') or 0)
if server.call('LLEN', KEYS[2]) >= tonumber(ARGV[5]) or failed_bytes >= tonumber(ARGV[6]) then
  return 'full'
end

-- Events are taken out a few at a time, however large those at the head may be: what turns out not
-- to fit has to be put back.
local most, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local events, count, bytes, step = {}, 0, 0, 1
while count == #events and count < most and bytes < most_bytes do
  local taken = server.call('LPOP', queue, math.min(step, most - count))
  if not taken then break end
  for _, event in ipairs(taken) do
    events[#events + 1] = event
    if #events == count + 1 and (count == 0 or bytes + #event <= most_bytes) then
      count, bytes = count + 1, bytes + #event
    end
  end
  step = math.min(2 * step, 64)
end
if count == 0 then return {} end

-- What has outlived leases may be what ends its workers: it takes nobody along.
if server.call('EXISTS', KEYS[5]) == 1 then
  for i = 1, count do
    local outlived = tonumber(server.call('HGET', KEYS[5], siem_digest(events[i])) or 0)
    if outlived >= tonumber(ARGV[7]) then
      count = math.max(i - 1, 1)
      break
    end
  end
  bytes = siem_size(events, 1, count)
end
siem_unshift(queue, events, count + 1, #events)
for i = #events, count + 1, -1 do events[i] = nil end

siem_push(KEYS[6], events, 1, count)
server.call('HINCRBY', account, 'queued_bytes', -bytes)
siem_book(account, 'inflight', count, bytes)
local token = string.format('%.0f', server.call('HINCRBY', account, 'token', 1))
siem_write_lease(KEYS[3], ARGV[1], {
  token = token, expiry = siem_now_ms() + tonumber(ARGV[4]), renewed = 0,
}, events)
return {token, events, server.call('LLEN', queue)}
