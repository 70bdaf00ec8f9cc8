/* Connects again and again to an echo server, and prints how long each connect(2) took, in nanoseconds.
 * Every connection is reset, so that no port waits. `dial ADDRESS PORT COUNT` */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* How many connections may wait for the server to accept them. Where its queue is full the kernel drops
 * the next SYN, and sends it again a second later: what is measured then is the server. */
enum { AHEAD = 256 };

/* Waits until the server has accepted all connections up to this one. */
static int served(int client) {
	char byte = '?';
	return send(client, &byte, 1, 0) == 1 && recv(client, &byte, 1, 0) == 1;
}

int main(int argc, char **argv) {
	if (argc != 4)
		return 2;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
	if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	for (int n = atoi(argv[3]); n > 0; n--) {
		struct linger reset = { 1, 0 };
		int client = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		long long before = now();
		if (connect(client, (struct sockaddr *)&to, sizeof to) < 0) {
			perror("connect");
			return 1;
		}
		printf("%lld\n", now() - before);
		if (n % AHEAD == 0 && !served(client)) {
			perror("echo");
			return 1;
		}
		close(client);
	}
}
