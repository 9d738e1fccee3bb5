-- The record of a lease: "token expiry events bytes oldest renewed", the expiry in milliseconds of
-- the server's clock, the oldest as the id of the first event ('-' when it has none), renewed as 1
-- once its worker has lived with these events long enough to renew it, else 0.
--
-- siem_lease(leases, worker)            its fields by name; nil without a lease
-- siem_write_lease(leases, worker, lease, events)  write it, for events that are held now
-- siem_now_ms()                         the server's clock
-- siem_digest(event)                    names an event among the expiries
-- siem_forgive(expiries, events)        forget how many leases events outlived; costs one command
--                                       while no event has outlived any
local function siem_now_ms()
  return math.floor(now_us() / 1000)
end

local function siem_lease(leases, worker)
  local record = server.call('HGET', leases, worker)
  if not record then return nil end
  local token, expiry, events, bytes, oldest, renewed =
    string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%S+) ([01])$')
  return {
    token = token, expiry = tonumber(expiry), events = tonumber(events), bytes = tonumber(bytes),
    oldest = oldest, renewed = tonumber(renewed),
  }
end

local function siem_write_lease(leases, worker, lease, events)
  if events then
    lease.events, lease.bytes = #events, siem_size(events, 1, #events)
    lease.oldest = string.match(events[1], '"id":"([%x-]+)"') or '-'
  end
  server.call('HSET', leases, worker, string.format(
    '%s %.0f %.0f %.0f %s %d', lease.token, lease.expiry, lease.events, lease.bytes, lease.oldest,
    lease.renewed))
end

local function siem_digest(event)
  return server.sha1hex(event)
end

local function siem_forgive(expiries, events)
  if #events == 0 or server.call('EXISTS', expiries) == 0 then return end
  for _, event in ipairs(events) do server.call('HDEL', expiries, siem_digest(event)) end
end
