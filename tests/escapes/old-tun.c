/* A device of our own (/dev/net/tun) that is open already when its process comes under the gate, which has no
 * capability by then: the host forwards what is written to it. */
#include "escape.h"
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/route.h>
int main(int argc, char **argv) {
	begin(argc, argv);
	if (FAMILY != AF_INET)
		return 2;
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	snprintf(request.ifr_name, sizeof request.ifr_name, "older%%d");
	int device = open("/dev/net/tun", O_RDWR);
	if (device < 0 && errno == ENOENT) {
		DO(mknod("/tmp/escape-tun", S_IFCHR | 0600, 10 << 8 | 200));
		device = open("/tmp/escape-tun", O_RDWR);
		unlink("/tmp/escape-tun");
	}
	if (device < 0)
		refused("open");
	DO(ioctl(device, TUNSETIFF, &request));
	int any = DO(socket(AF_INET, SOCK_DGRAM, 0));
	struct sockaddr_in *own = (struct sockaddr_in *)&request.ifr_addr;
	own->sin_family = AF_INET;
	inet_pton(AF_INET, "192.0.2.133", &own->sin_addr);
	DO(ioctl(any, SIOCSIFADDR, &request));
	inet_pton(AF_INET, "255.255.255.252", &own->sin_addr);
	DO(ioctl(any, SIOCSIFNETMASK, &request));
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	DO(ioctl(any, SIOCSIFFLAGS, &request));
	put("/proc/sys/net/ipv4/ip_forward", "1");
	uint8_t out[256];
	size_t length = packet(out, 0, 0);
	inet_pton(AF_INET, "192.0.2.134", out + 12);
	out[10] = out[11] = 0;
	*(uint16_t *)(out + 10) = checksum(out, 20, 0);
	DO(setresuid(1000, 1000, 1000));
	await_go();
	DO(write(device, out, length));
	usleep(200000);
}
