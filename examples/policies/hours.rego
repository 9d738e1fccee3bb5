# Schedules: {"zone": "UTC", "days": ["Monday", ...], "opens": [7, 0], "closes": [19, 0]}.
#
# A schedule opens and closes on the same day; zone is a name of the time zone database. The
# functions take the time as nanoseconds since 1970, so that tests can ask about any moment.
package sark.authz

import rego.v1

# Within one decision time stands still: every call returns the same.
now := time.now_ns()

day_end := 86400

# Seconds by which a decision expires before its boundary: one for the fraction that a clock
# reading drops, one for the way from here to the cache.
margin := 2

schedule_open(schedule, ns) if {
	time.weekday([ns, schedule.zone]) in schedule.days
	second := second_of_day(schedule, ns)
	second >= seconds_at(schedule.opens)
	second < seconds_at(schedule.closes)
}

# Seconds for which a decision resting on this schedule holds, negative when there are none.
schedule_ttl(schedule, ns) := wall_seconds - margin if {
	wall_seconds := boundary(schedule, ns) - second_of_day(schedule, ns)
	arrival := second_of_day(schedule, ns + (wall_seconds * 1000000000))
	arrival == boundary(schedule, ns) % day_end
}

# Clocks are put forward or back before then. Forward, the boundary comes up to an hour sooner.
else := ((boundary(schedule, ns) - second_of_day(schedule, ns)) - 3600) - margin

# The next second of this day at which the schedule may open or close. After the last one it is
# midnight: the next day is looked at when it comes.
boundary(schedule, ns) := seconds_at(schedule.closes) if schedule_open(schedule, ns)

else := seconds_at(schedule.opens) if second_of_day(schedule, ns) < seconds_at(schedule.opens)

else := day_end

second_of_day(schedule, ns) := seconds_at([hour, minute]) + second if {
	[hour, minute, second] := time.clock([ns, schedule.zone])
}

seconds_at([hour, minute]) := (hour * 3600) + (minute * 60)

# The verdict with its ttl, or not to be cached when its boundary is too near.
timed(result, ttl) := object.union(result, {"ttl": ttl}) if ttl >= 1

else := object.union(result, {"cacheable": false})
