/* Does not stop: `leak ADDRESS PORT MARKER ROUNDS ADDRESS6 RESOLVER RESOLVER6 LOOKED LOOKED6`, the canary's
 * two addresses, the name servers', and two that are the proxy's to decide on. Each round tries TCP and
 * UDP over each version of IP, and each sixteenth one what the guard's worker answers, which it takes longer
 * for than the kernel; 0 rounds are as many as there is time for. What gets out has the marker and a letter
 * of its kind. It says how many rounds there were, now and then and at the end.
 *
 * Not a way out of its own: what the others try once, at a moment that nobody has chosen. */
#include "escape.h"

enum { CANARY, RESOLVER, LOOKED, PLACES };

struct place {
	struct sockaddr_storage at;
	socklen_t length;
	int port;
};

static struct place places[PLACES][2];
/* Datagram sockets that are as old as the program. */
static int old[2], connected[2];

static struct sockaddr *to(const struct place *place) {
	return (struct sockaddr *)&place->at;
}

/* A place with another port. */
static struct place port_of(const struct place *place, int port) {
	struct place other = *place;
	((struct sockaddr_in *)&other.at)->sin_port = htons(port);
	return other;
}

static int made(const struct place *place, int kind) {
	return socket(place->at.ss_family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* A query for a name that begins with the text. */
static size_t query(uint8_t *out, const char *text) {
	size_t length = strlen(text), at = 12;
	memset(out, 0, 128);
	out[1] = 7;
	out[2] = 1; /* recursion is wanted */
	out[5] = 1;
	out[at++] = length;
	memcpy(out + at, text, length);
	at += length;
	memcpy(out + at, "\7example\3net", 13);
	at += 13;
	out[at + 1] = 1;
	out[at + 3] = 1;
	return at + 4;
}

/* Dials and says something, where that is possible at once or in the next moment. */
static void stream(const struct place *place, const void *text, size_t length) {
	int socket = made(place, SOCK_STREAM);
	if (socket < 0)
		return;
	if (!connect(socket, to(place), place->length) || errno == EINPROGRESS) {
		struct pollfd ready = {socket, POLLOUT, 0};
		if (poll(&ready, 1, 20) == 1)
			send(socket, text, length, MSG_NOSIGNAL);
	}
	close(socket);
}

static void datagram(const struct place *place, const void *text, size_t length) {
	int socket = made(place, SOCK_DGRAM);
	if (socket < 0)
		return;
	sendto(socket, text, length, 0, to(place), place->length);
	close(socket);
}

static void attempts(int family, int asks) {
	char text[64], request[256];
	uint8_t message[130];
	const struct place *canary = &places[CANARY][family];
	const struct place *resolver = &places[RESOLVER][family];

	snprintf(text, sizeof text, "%st%d", marker, family);
	stream(canary, text, strlen(text));
	snprintf(text, sizeof text, "%su%d", marker, family);
	datagram(canary, text, strlen(text));
	snprintf(text, sizeof text, "%so%d", marker, family);
	sendto(old[family], text, strlen(text), 0, to(canary), canary->length);
	snprintf(text, sizeof text, "%sc%d", marker, family);
	send(connected[family], text, strlen(text), MSG_NOSIGNAL);

	if (!asks)
		return;

	snprintf(request, sizeof request,
		"POST /%sp%d HTTP/1.1\r\nHost: looked.example\r\nContent-Length: 0\r\n\r\n", marker, family);
	stream(&places[LOOKED][family], request, strlen(request));

	/* Of the host's resolver, of one that nobody has chosen, and over TCP. */
	snprintf(text, sizeof text, "%sd%d", marker, family);
	size_t length = query(message + 2, text);
	datagram(resolver, message + 2, length);
	struct place elsewhere = port_of(canary, 53);
	datagram(&elsewhere, message + 2, length);
	message[0] = 0;
	message[1] = length;
	stream(resolver, message, length + 2);
}

int main(int argc, char **argv) {
	begin(argc, argv);
	if (argc < 10) {
		fprintf(stderr, "usage: see the source\n");
		return 2;
	}
	alarm(0);
	signal(SIGPIPE, SIG_IGN);
	const int ports[PLACES] = {atoi(argv[2]), 53, 80};
	const char *texts[PLACES][2] = {{argv[1], argv[5]}, {argv[6], argv[7]}, {argv[8], argv[9]}};
	for (int place = 0; place < PLACES; place++)
		for (int family = 0; family < 2; family++) {
			struct place *one = &places[place][family];
			address(&one->at, &one->length, texts[place][family], ports[place]);
		}
	for (int family = 0; family < 2; family++) {
		const struct place *canary = &places[CANARY][family];
		old[family] = DO(made(canary, SOCK_DGRAM));
		connected[family] = DO(made(canary, SOCK_DGRAM));
		connect(connected[family], to(canary), canary->length);
	}
	long most = atol(argv[4]);
	for (long round = 1; !most || round <= most; round++) {
		attempts(0, round % 16 == 1);
		attempts(1, round % 16 == 1);
		/* Some thousand attempts a second are enough to meet any gap, and leave the guard its processor. */
		usleep(5000);
		if (round == most || round % 50 == 0) {
			printf("%ld\n", round);
			fflush(stdout);
		}
	}
}
