-- Tell what became of each event of a lease.
--
-- KEYS[1]  queue, KEYS[2] dead letters, KEYS[3] leases, KEYS[4] account, KEYS[5] expiries
-- KEYS[6]  the worker's events in flight
-- ARGV[1]  worker, ARGV[2] token, ARGV[3] most dead letters, ARGV[4] most bytes of them
-- ARGV[5]  a letter per event: d delivered, k kept, r returned to the head of the queue, b bad
-- ARGV[6..] heads of the dead letters, one per bad event in order
--
-- Returns how many became dead letters (bad events without room there return to the queue), or -1
-- when the token is not the current one. Atomic because a stale worker must change nothing, and
-- the account must agree with the lists.
local lease = siem_lease(KEYS[3], ARGV[1])
if not lease or lease.token ~= ARGV[2] then return -1 end
if #ARGV[5] ~= lease.events then
  return server.error_reply('ERR ' .. #ARGV[5] .. ' outcomes for ' .. lease.events .. ' events')
end
local events = server.call('LRANGE', KEYS[6], 0, -1)
local delivered, kept, back, bad, heads = {}, {}, {}, {}, {}
local places = {d = delivered, k = kept, r = back, b = bad}
for i, event in ipairs(events) do
  local place = places[string.sub(ARGV[5], i, i)]
  place[#place + 1] = event
end
for i = 6, #ARGV do heads[i - 5] = ARGV[i] end
local buried = siem_bury(KEYS[2], KEYS[4], tonumber(ARGV[3]), tonumber(ARGV[4]), heads, bad)
if buried < #bad then
  -- Those without room go back to where they were among the others.
  local nth = 0
  back = {}
  for i, event in ipairs(events) do
    local letter = string.sub(ARGV[5], i, i)
    if letter == 'b' then nth = nth + 1 end
    if letter == 'r' or (letter == 'b' and nth > buried) then back[#back + 1] = event end
  end
  for i = #bad, buried + 1, -1 do bad[i] = nil end
end

siem_unshift(KEYS[1], back, 1, #back)
siem_forgive(KEYS[5], delivered)
siem_forgive(KEYS[5], bad)
local back_bytes = siem_size(back, 1, #back)
local left_bytes = lease.bytes - siem_size(kept, 1, #kept)
siem_book(KEYS[4], 'delivered', #delivered, siem_size(delivered, 1, #delivered))
siem_book(KEYS[4], 'inflight', #kept - lease.events, -left_bytes)
if #back > 0 then server.call('HINCRBY', KEYS[4], 'queued_bytes', back_bytes) end
server.call('UNLINK', KEYS[6])
if #kept > 0 then
  siem_push(KEYS[6], kept, 1, #kept)
  siem_write_lease(KEYS[3], ARGV[1], lease, kept)
else
  server.call('HDEL', KEYS[3], ARGV[1])
end
return buried
