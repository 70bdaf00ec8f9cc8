/* One socket in three processes at once: what is noted of one's allowed datagram may serve another's. */
#include "escape.h"
#include <time.h>
static double now(void) {
	struct timespec time;
	DO(clock_gettime(CLOCK_MONOTONIC, &time));
	return time.tv_sec + time.tv_nsec / 1e9;
}
int main(int argc, char **argv) {
	begin(argc, argv);
	struct sockaddr_storage own;
	socklen_t length;
	address(&own, &length, FAMILY == AF_INET ? "127.0.0.1" : "::1", 0);
	int server = DO(socket(FAMILY, SOCK_DGRAM, 0)), client = DO(socket(FAMILY, SOCK_DGRAM, 0));
	DO(bind(server, (struct sockaddr *)&own, length));
	DO(getsockname(server, (struct sockaddr *)&own, &length));
	DO(connect(client, TARGET, target_length));
	double end = now() + 1;
	size_t size = strlen(marker);
	/* To where the agent may send, and to where it may not; the server's queue is full soon. */
	pid_t allowed = DO(fork());
	if (!allowed) {
		while (now() < end)
			sendto(client, marker, size, MSG_DONTWAIT, (struct sockaddr *)&own, length);
		_exit(0);
	}
	pid_t denied = DO(fork());
	if (!denied) {
		while (now() < end)
			sendto(client, marker, size, MSG_DONTWAIT, TARGET, target_length);
		_exit(0);
	}
	/* Without an address the packet alone is looked at. */
	int sent = 0;
	while (now() < end && !sent)
		sent = send(client, marker, size, MSG_DONTWAIT) > 0;
	DO(waitpid(allowed, NULL, 0));
	DO(waitpid(denied, NULL, 0));
	if (!sent) {
		errno = EPERM;
		refused("send");
	}
}
