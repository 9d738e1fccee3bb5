# What roles may do. data.org.roles[role][action] is a list of grants; one that fits is enough.
# A grant is an object of conditions, {} has none:
#
#   environments  the environments in which it holds
#   owned         the target belongs to the user's team
#   self          the target is the user
#   sensitivity   the highest sensitivity of a tool
#   mfa           the user has proved a second factor
#   hours         the schedule that must be open (hours.rego)
package sark.authz

import rego.v1

# A role that may at any time comes first, then one whose schedule is open; of several, the one
# named first among the user's roles is told. A decision that rests on no schedule has no ttl; one
# that does has the shortest of the schedules that decided it.
role_verdict := role_permission(role) if {
	role := always[0]
} else := timed(role_permission(role), min(ttls_open)) if {
	role := roles_open[0]
} else := timed(denial("outside the permitted hours"), min(ttls_closed)) if {
	count(scheduled) > 0
} else := denial(nearest_obstacle) if {
	count(grants) > 0
} else := denial("no role permits this action")

role_permission(role) := permission(concat(" ", ["role", role, "may", input.action]))

# Grants of all the user's roles for this action, as [role, grant].
grants := [[role, grant] |
	some role in user.roles
	permissions := data.org.roles[role] # a look-up of its own is cheaper than roles[role][action]
	some grant in permissions[input.action]
]

# Those whose conditions are met, the time of day left aside.
fitting := [pair |
	some pair in grants
	not has_obstacle(pair[1])
]

# Roles that may at any time, and the fitting grants that ask for a schedule.
always := [role |
	some [role, grant] in fitting
	not grant.hours
]

scheduled := [[role, schedule] |
	some [role, grant] in fitting
	schedule := data.org.hours[grant.hours]
]

roles_open := [role |
	some [role, schedule] in scheduled
	schedule_open(schedule, now)
]

ttls_open := [schedule_ttl(schedule, now) |
	some [_, schedule] in scheduled
	schedule_open(schedule, now)
]

ttls_closed := [schedule_ttl(schedule, now) | some [_, schedule] in scheduled]

has_obstacle(grant) if {
	some condition, value in grant
	not meets(condition, value)
}

# One look-up per condition; a condition that is not listed here is never met.
meets(condition, value) if {
	condition == "hours" # looked at last, see above
} else if {
	condition == "environments"
	environment in value
} else if {
	condition == "owned"
	target.team == user.team
} else if {
	condition == "self"
	target.user == input.user_id
} else if {
	condition == "sensitivity"
	data.org.sensitivities[target.sensitivity] <= data.org.sensitivities[value]
} else if {
	condition == "mfa"
	input.context.mfa == true
}

# Of several grants that do not fit, the reason tells of the one that came closest: each fails
# at the first of its unmet conditions in this order, and the latest of those is told.
obstacles := [
	["environments", "not for this environment"],
	["self", "not for others than the user"],
	["owned", "not for other teams' property"],
	["sensitivity", "tool too sensitive for the role"],
	["mfa", "second factor missing"],
]

nearest_obstacle := reason if {
	nearest := max([first_obstacle(grant) | some [_, grant] in grants])
	reason := obstacles[nearest][1]
} else := "a condition that cannot be met" # a slip in the data: no such condition or schedule

first_obstacle(grant) := min([i |
	some i, [condition, _] in obstacles
	value := grant[condition]
	not meets(condition, value)
])
