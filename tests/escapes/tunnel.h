/* The kernel's own tunnels: what goes into one is sent on by no socket of an agent's. Where the policy allows it
 * goes in, where the tunnel leads comes out. */
#include "escape.h"
#include <stdarg.h>

/* Runs a line of iproute2's. */
__attribute__((unused, format(printf, 1, 2))) static void run(const char *form, ...) {
	char line[512], said[512];
	va_list rest;
	va_start(rest, form);
	int length = vsnprintf(line, sizeof line, form, rest);
	va_end(rest);
	snprintf(line + length, sizeof line - length, " 2>&1");
	FILE *output = popen(line, "r");
	if (!output)
		refused("popen");
	said[fread(said, 1, sizeof said - 1, output)] = 0;
	if (!pclose(output))
		return;
	fprintf(stderr, "%s: %s", line, said);
	exit(strstr(said, "not supported") || strstr(said, "Unknown device type") ? 3 : 1);
}

static char allowed[64], canary[64];
static int width;

/* Where it goes, and where it is to arrive. */
__attribute__((unused)) static void aim(void) {
	int six = FAMILY == AF_INET6;
	width = six ? 128 : 32;
	inet_ntop(FAMILY, six ? (void *)&((struct sockaddr_in6 *)&target)->sin6_addr : (void *)&((struct sockaddr_in *)&target)->sin_addr, canary,
		sizeof canary);
	snprintf(allowed, sizeof allowed, "%s", setting(six ? "ESCAPE_ALLOWED6" : "ESCAPE_ALLOWED"));
	address(&target, &target_length, allowed, 7);
}

/* Sends what is allowed. An agent whose share of the events is used up is refused that too, until the daemon has read
 * them: what is then still refused is not for that. */
__attribute__((unused)) static void send_allowed(int client) {
	for (int n = 0; n < 30; n++) {
		if (sendto(client, marker, strlen(marker), 0, TARGET, target_length) != -1)
			return;
		if (errno != EPERM)
			break;
		sleep(1);
	}
	refused("sendto(what is allowed)");
}

__attribute__((unused)) static void undo_tunnel(void) {
	system("ip link del escapetunnel 2>/dev/null");
}

/* A tunnel of a kind that ends at the canary, and what is allowed goes into it. */
__attribute__((unused)) static void send_through(const char *kind) {
	alarm(60);
	atexit(undo_tunnel);
	run("ip link add escapetunnel type %s remote %s dev uplink", kind, canary);
	run("ip link set escapetunnel up");
	run("ip route add %s/%d dev escapetunnel", allowed, width);
	if (!strncmp(kind, "vxlan", 5))
		run("ip neigh add %s lladdr 02:00:00:00:00:07 dev escapetunnel nud permanent", allowed);
	int client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	send_allowed(client);
	usleep(200000);
}
