/* What every way out shares: `PROGRAM ADDRESS PORT MARKER`, the canary's address and port and what
 * the packets have to carry. In the environment: ESCAPE_UID, the user to become first; ESCAPE_CGROUP, a
 * cgroup to enter; and of the deputy (deputy.c), a process that nobody governs, what it listens on.
 *
 * Exit 0: the program believes that it got out. Exit 1: a call was refused. Exit 3: the kernel
 * does not have what the way needs. What counts is what arrives on the wire. */
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where it goes, and what it says. */
static struct sockaddr_storage target;
static socklen_t target_length;
static const char *marker;

#define TARGET ((struct sockaddr *)&target)
#define FAMILY (target.ss_family)

/* Ends the program where a call failed. */
__attribute__((unused)) static void refused(const char *call) {
	int error = errno;
	fprintf(stderr, "%s: %s\n", call, strerrorname_np(error));
	switch (error) {
	case EAFNOSUPPORT:
	case EPROTONOSUPPORT:
	case ESOCKTNOSUPPORT:
	case EPFNOSUPPORT:
	case ENOSYS:
	case ENODEV:
	case ENOPROTOOPT:
		exit(3);
	default:
		exit(1);
	}
}

/* The value of a call that must not fail. */
#define DO(call)                                     \
	({                                           \
		__typeof__(call) result_ = (call);   \
		if ((long)result_ == -1)             \
			refused(#call);              \
		result_;                             \
	})

__attribute__((unused)) static const char *setting(const char *name) {
	const char *value = getenv(name);
	if (!value) {
		fprintf(stderr, "no %s\n", name);
		exit(2);
	}
	return value;
}

static void address(struct sockaddr_storage *to, socklen_t *length, const char *text, int port) {
	struct sockaddr_in *four = (struct sockaddr_in *)to;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;
	memset(to, 0, sizeof *to);
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		*length = sizeof *four;
	} else if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		*length = sizeof *six;
	} else {
		fprintf(stderr, "not an address: %s\n", text);
		exit(2);
	}
}

__attribute__((unused)) static void enter_cgroup(const char *directory) {
	char path[4096];
	snprintf(path, sizeof path, "%s/cgroup.procs", directory);
	int procs = DO(open(path, O_WRONLY | O_CLOEXEC));
	DO(write(procs, "0", 1));
	close(procs);
}

static void begin(int argc, char **argv) {
	if (argc < 4) {
		fprintf(stderr, "usage: %s ADDRESS PORT MARKER\n", argv[0]);
		exit(2);
	}
	address(&target, &target_length, argv[1], atoi(argv[2]));
	marker = argv[3];
	const char *user = getenv("ESCAPE_UID");
	if (user) {
		uid_t id = atoi(user);
		DO(setgroups(0, NULL));
		DO(setresgid(id, id, id));
		DO(setresuid(id, id, id));
	}
	/* Nothing waits for an answer for long. */
	alarm(10);
}

/* Another port of the canary's than it was told: sockaddr_in and sockaddr_in6 have it in one place. */
__attribute__((unused)) static void set_port(int port) {
	((struct sockaddr_in *)&target)->sin_port = htons(port);
}

/* Writes a setting of the kernel's. */
__attribute__((unused)) static void put(const char *path, const char *text) {
	int file = DO(open(path, O_WRONLY));
	DO(write(file, text, strlen(text)));
	close(file);
}

/* Sends what must be seen on a connected socket. */
__attribute__((unused)) static void say(int to) {
	DO(send(to, marker, strlen(marker), MSG_NOSIGNAL));
}

/* Ends a connection whose other end does not answer: nothing is sent again. */
__attribute__((unused)) static void leave(int client) {
	struct linger now = { .l_onoff = 1 };
	usleep(200000);
	DO(setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now));
	close(client);
}

/* The sum of RFC 1071. */
__attribute__((unused)) static uint16_t checksum(const void *data, size_t length, uint32_t sum) {
	const uint8_t *bytes = data;
	for (size_t at = 0; at < length; at++)
		sum += at % 2 ? bytes[at] : bytes[at] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum & 0xffff);
}

/* A whole IP packet with a UDP datagram for the target in it; gives its length. */
__attribute__((unused)) static size_t packet(uint8_t *out, int fragment, int extension) {
	size_t text = strlen(marker), udp = 8 + text;
	size_t at;
	memset(out, 0, 256);
	if (FAMILY == AF_INET) {
		struct sockaddr_in *to = (struct sockaddr_in *)&target;
		out[0] = 0x45;
		*(uint16_t *)(out + 2) = htons(20 + udp);
		out[8] = 64;
		out[9] = IPPROTO_UDP;
		if (fragment)
			*(uint16_t *)(out + 6) = htons(0x2000);
		inet_pton(AF_INET, "198.51.100.10", out + 12);
		memcpy(out + 16, &to->sin_addr, 4);
		*(uint16_t *)(out + 10) = checksum(out, 20, 0);
		at = 20;
	} else {
		struct sockaddr_in6 *to = (struct sockaddr_in6 *)&target;
		size_t head = extension || fragment ? 8 : 0;
		out[0] = 0x60;
		*(uint16_t *)(out + 4) = htons(head + udp);
		out[6] = extension ? IPPROTO_DSTOPTS : fragment ? IPPROTO_FRAGMENT : IPPROTO_UDP;
		out[7] = 64;
		inet_pton(AF_INET6, "2001:db8:51::10", out + 8);
		memcpy(out + 24, &to->sin6_addr, 16);
		at = 40;
		if (head) {
			out[at] = IPPROTO_UDP;
			if (fragment)
				*(uint16_t *)(out + at + 2) = htons(1); /* more follow */
			else
				out[at + 2] = 1, out[at + 3] = 4; /* PadN */
			at += head;
		}
	}
	*(uint16_t *)(out + at) = htons(4321);
	memcpy(out + at + 2, &((struct sockaddr_in *)&target)->sin_port, 2);
	*(uint16_t *)(out + at + 4) = htons(udp);
	memcpy(out + at + 8, marker, text);
	return at + udp;
}

/* Says that it is ready, and waits until the file ESCAPE_GO is there. */
__attribute__((unused)) static void await_go(void) {
	const char *go = setting("ESCAPE_GO");
	alarm(60);
	puts("ready");
	fflush(stdout);
	while (access(go, F_OK))
		usleep(10000);
}

/* Shows a process that nobody governs that something was had which sends no packets itself: it sends
 * one for it. What is written is the proof, which cannot be had otherwise. */
__attribute__((unused)) static void prove(const char *proof) {
	char line[512];
	int box = DO(open(setting("DEPUTY_BOX"), O_WRONLY | O_CLOEXEC));
	int length = snprintf(line, sizeof line, "%s %s\n", marker, proof);
	DO(write(box, line, length));
}
