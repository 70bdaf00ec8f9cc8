/* Into another network namespace, which knows no gate. */
#include "escape.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	DO(setns(DO(open(setting("ESCAPE_NETNS"), O_RDONLY)), CLONE_NEWNET));
	/* There the canary is at home. */
	int server = socket(FAMILY, SOCK_DGRAM, 0);
	if (server < 0)
		refused("socket");
	struct sockaddr_storage to;
	socklen_t length;
	address(&to, &length, FAMILY == AF_INET ? "198.51.100.10" : "2001:db8:51::10", 9);
	DO(sendto(server, marker, strlen(marker), 0, (struct sockaddr *)&to, length));
}
