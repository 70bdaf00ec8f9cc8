/* A tunnel over the link, whose packets a socket of the kernel's sends (VXLAN; WireGuard and Geneve are others). */
#include "tunnel.h"
int main(int argc, char **argv) {
	begin(argc, argv);
	aim();
	send_through("vxlan id 7 dstport 4789");
}
