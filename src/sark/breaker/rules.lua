-- The rules of a breaker: the functions of rules.py, line by line, where they are explained. They
-- take the state b and the rules c as tables, the time in microseconds, and touch no key. Whoever
-- changes b sets b.changed.
local function breaker_enter(b, state, now)
  local spent = b.state .. '_us'
  b[spent] = b[spent] + math.max(0, now - b.since)
  b.state, b.since, b.period = state, now, math.max(now, b.period + 1)
  b.successes, b.probes, b.window = 0, {}, {}
  if state == 'closed' then b.failures = 0 end
  b.changed = true
end

local function breaker_open(b, c, now, reason, jitter)
  local pause = math.min(c.open_us * 2 ^ math.min(b.openings, 30), c.cap_us)
  breaker_enter(b, 'open', now)
  b.open_until = now + math.floor(pause * (1 - 0.2 * jitter))
  b.openings, b.opened, b.reason = b.openings + 1, b.opened + 1, reason
end

local function breaker_advance(b, now)
  if b.forced ~= '' and 0 < b.forced_until and b.forced_until <= now then
    b.forced, b.forced_until = '', 0
    b.period = math.max(now, b.period + 1)
    b.changed = true
  end
  for token, lease_end in pairs(b.probes) do
    if lease_end <= now then
      b.probes[token] = nil
      b.changed = true
    end
  end
end

local function breaker_count(b, c, now, tally)
  local current = math.floor(now / c.bucket_us)
  local counted = b.window[current] or {0, 0, 0}
  b.window[current] =
    {counted[1] + tally.calls, counted[2] + tally.failures, counted[3] + tally.slow}
  local calls, failures, slow = 0, 0, 0
  for number, sums in pairs(b.window) do
    if current - c.buckets < number and number <= current then
      calls, failures, slow = calls + sums[1], failures + sums[2], slow + sums[3]
    else
      b.window[number] = nil
    end
  end
  return calls, failures, slow
end

local function breaker_report(b, c, now, period, tally, reason, jitter)
  breaker_advance(b, now)
  if tally.calls == 0 or b.forced ~= '' or b.state ~= 'closed' or period ~= b.period then return end
  b.changed = true
  local run = math.max(b.failures + tally.leading, tally.longest)
  b.failures = tally.failures == tally.calls and b.failures + tally.failures or tally.trailing
  if tally.failures > 0 then b.last_failure = now end
  local calls, failures, slow = breaker_count(b, c, now, tally)
  if 0 < c.failures and c.failures <= run then
    b.failures = run
    breaker_open(b, c, now, reason, jitter)
  elseif calls >= c.minimum_calls and (
    (0 < c.failure_rate and c.failure_rate <= failures / calls)
    or (0 < c.slow_rate and c.slow_rate <= slow / calls)
  ) then
    breaker_open(b, c, now, reason ~= '' and reason or 'slow calls', jitter)
  end
end

local function breaker_running(b)
  local running, first_end = 0, math.huge
  for _, lease_end in pairs(b.probes) do
    running, first_end = running + 1, math.min(first_end, lease_end)
  end
  return running, first_end
end

local function breaker_has_room(b, c)
  local running = breaker_running(b)
  return running < c.probes and running + b.successes < c.successes
end

local function breaker_admit(b, c, now)
  breaker_advance(b, now)
  if b.state == 'closed' then return 0 end
  if b.forced ~= '' or (b.state == 'open' and now < b.open_until) then return -1 end
  if b.state == 'open' then breaker_enter(b, 'half_open', now) end
  if not breaker_has_room(b, c) then return -1 end
  b.token = math.max(now, b.token + 1)
  b.probes[b.token] = now + c.lease_us
  b.changed = true
  return b.token
end

local function breaker_conclude(b, c, now, token, outcome, reason, jitter)
  breaker_advance(b, now)
  if not b.probes[token] then return end
  b.probes[token] = nil
  b.changed = true
  if outcome == 'failed' then
    b.failures = b.failures + 1
    b.last_failure = now
    breaker_open(b, c, now, reason, jitter)
  elseif outcome == 'succeeded' then
    b.successes = b.successes + 1
    if b.successes >= c.successes then
      b.openings = 0
      breaker_enter(b, 'closed', now)
    end
  end
end

local function breaker_force(b, now, forced, forced_until)
  b.openings = 0
  breaker_enter(b, forced, now)
  b.forced, b.forced_until, b.open_until = forced, forced_until, forced_until
end

local function breaker_reset(b, now)
  b.openings, b.reason, b.forced, b.forced_until, b.open_until = 0, '', '', 0, 0
  breaker_enter(b, 'closed', now)
end

local function breaker_retry(b, c, now)
  if b.state == 'closed' then return 0 end
  if b.state == 'open' then
    if b.forced ~= '' and b.forced_until == 0 then return c.cap_us end
    return math.max(0, b.open_until - now)
  end
  if breaker_has_room(b, c) then return 0 end
  local _, first_end = breaker_running(b)
  return math.max(0, first_end - now)
end

local function breaker_view(b, c, now)
  local age = math.max(0, now - b.since)
  local spent = {closed = b.closed_us, open = b.open_us, half_open = b.half_open_us}
  spent[b.state] = spent[b.state] + age
  return {
    b.state, b.forced, b.period, b.failures, breaker_retry(b, c, now), age, (breaker_running(b)),
    b.successes, b.opened, b.reason, b.last_failure, spent.closed, spent.open, spent.half_open,
  }
end
