/* Sends datagrams to a socket of its own over loopback, and prints how many in a second of its own
 * processor time, so that what else runs does not count. What is full is dropped: sending is what is
 * measured. `send COUNT` */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static double now(void) {
	struct timespec at;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
	if (argc != 2)
		return 2;
	int count = atoi(argv[1]);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t length = sizeof to;
	int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
	if (bind(server, (struct sockaddr *)&to, length) || getsockname(server, (struct sockaddr *)&to, &length)) {
		perror("bind");
		return 1;
	}
	double before = now();
	for (int n = 0; n < count; n++)
		if (sendto(client, "12345678", 8, 0, (struct sockaddr *)&to, length) < 0) {
			perror("sendto");
			return 1;
		}
	printf("%.0f\n", count / (now() - before));
}
