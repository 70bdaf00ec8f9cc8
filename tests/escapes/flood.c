/* Asks for more than there is: `flood ADDRESS PORT MARKER KIND COUNT PROCESSES`, so many attempts in all, by so
 * many processes at once. KIND: `connect`, of one socket again and again; `dns`, queries for a name that
 * begins with the marker, without waiting for answers; `stream`, a connection each, closed at once. Says
 * how many the kernel took and how many it refused.
 *
 * Not a way out: what a guard must bear. */
#include "escape.h"

struct tally {
	unsigned long taken, refused;
};

static struct tally *tallies;

static void count(struct tally *tally, long result) {
	if (result >= 0 || errno == EINPROGRESS)
		tally->taken++;
	else
		tally->refused++;
}

static void dial(struct tally *tally, long attempts) {
	int socket_ = DO(socket(FAMILY, SOCK_STREAM | SOCK_NONBLOCK, 0));
	while (attempts--)
		count(tally, connect(socket_, TARGET, target_length));
}

static void streams(struct tally *tally, long attempts) {
	while (attempts--) {
		int socket_ = DO(socket(FAMILY, SOCK_STREAM | SOCK_NONBLOCK, 0));
		count(tally, connect(socket_, TARGET, target_length));
		close(socket_);
	}
}

static void queries(struct tally *tally, long attempts) {
	uint8_t query[128] = {0, 7, 1, 0, 0, 1};
	size_t length = strlen(marker), at = 12;
	query[at++] = length;
	memcpy(query + at, marker, length);
	at += length;
	memcpy(query + at, "\7example\3net\0\0\1\0\1", 17);
	at += 17;
	int socket_ = DO(socket(FAMILY, SOCK_DGRAM, 0));
	while (attempts--)
		count(tally, sendto(socket_, query, at, MSG_DONTWAIT, TARGET, target_length));
}

int main(int argc, char **argv) {
	begin(argc, argv);
	alarm(0);
	if (argc < 7) {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	long attempts = atol(argv[5]), processes = atol(argv[6]);
	tallies = DO(mmap(NULL, processes * sizeof *tallies, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	for (long number = 0; number < processes; number++) {
		if (DO(fork()))
			continue;
		/* Each processor has its turn, however many there are. */
		cpu_set_t one;
		CPU_ZERO(&one);
		CPU_SET(number % sysconf(_SC_NPROCESSORS_ONLN), &one);
		sched_setaffinity(0, sizeof one, &one);
		long share = attempts / processes + (number < attempts % processes);
		if (!strcmp(argv[4], "connect"))
			dial(&tallies[number], share);
		else if (!strcmp(argv[4], "stream"))
			streams(&tallies[number], share);
		else
			queries(&tallies[number], share);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	struct tally sum = {0};
	for (long number = 0; number < processes; number++) {
		sum.taken += tallies[number].taken;
		sum.refused += tallies[number].refused;
	}
	printf("%lu %lu\n", sum.taken, sum.refused);
}
