#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOOPBACK_INDEX = 1, INDEX_LIMIT = 64 };

static struct nlmsghdr *start(void *buffer, uint16_t type, uint16_t flags, size_t body)
{
	struct nlmsghdr *header = buffer;

	memset(buffer, 0, REQUEST_MAX);
	header->nlmsg_type = type;
	header->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	header->nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
	return header;
}

static void attribute(struct nlmsghdr *header, uint16_t type, const void *value, size_t size)
{
	struct rtattr *attribute =
		(struct rtattr *)((char *)header + NLMSG_ALIGN(header->nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = (uint16_t)RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), value, size);
	header->nlmsg_len =
		(uint32_t)(NLMSG_ALIGN(header->nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

size_t request_link_up(void *buffer, int index)
{
	struct nlmsghdr *header = start(buffer, RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	struct ifinfomsg *link = NLMSG_DATA(header);

	link->ifi_family = AF_UNSPEC;
	link->ifi_index = index;
	link->ifi_flags = IFF_UP;
	link->ifi_change = IFF_UP;
	return header->nlmsg_len;
}

size_t request_mac(void *buffer, int index, const struct network *network)
{
	struct nlmsghdr *header = start(buffer, RTM_NEWLINK, 0, sizeof(struct ifinfomsg));
	struct ifinfomsg *link = NLMSG_DATA(header);

	link->ifi_family = AF_UNSPEC;
	link->ifi_index = index;
	attribute(header, IFLA_ADDRESS, network->mac, sizeof(network->mac));
	return header->nlmsg_len;
}

size_t request_address(void *buffer, int index, const struct network *network,
		       enum address_change change)
{
	struct nlmsghdr *header =
		change == ADDRESS_GONE
			? start(buffer, RTM_DELADDR, 0, sizeof(struct ifaddrmsg))
			: start(buffer, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE,
				sizeof(struct ifaddrmsg));
	struct ifaddrmsg *address = NLMSG_DATA(header);
	uint32_t host_bits = network->prefix < 32 ? UINT32_MAX >> network->prefix : 0;
	uint32_t broadcast = network->address | htonl(host_bits);

	address->ifa_family = AF_INET;
	address->ifa_prefixlen = network->prefix;
	address->ifa_index = (uint32_t)index;
	attribute(header, IFA_LOCAL, &network->address, sizeof(network->address));
	attribute(header, IFA_ADDRESS, &network->address, sizeof(network->address));
	attribute(header, IFA_BROADCAST, &broadcast, sizeof(broadcast));
	return header->nlmsg_len;
}

size_t request_gateway(void *buffer, int index, const struct network *network)
{
	struct nlmsghdr *header = start(buffer, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE,
					sizeof(struct rtmsg));
	struct rtmsg *route = NLMSG_DATA(header);

	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_BOOT;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	attribute(header, RTA_GATEWAY, &network->gateway, sizeof(network->gateway));
	attribute(header, RTA_OIF, &index, sizeof(index));
	return header->nlmsg_len;
}

/* Sends one request and takes its acknowledgement; 0 or an errno. */
static int request(int fd, const void *buffer, size_t size)
{
	_Alignas(struct nlmsghdr) char answer[1024];
	const struct nlmsghdr *header = (const struct nlmsghdr *)answer;
	const struct nlmsgerr *error;
	ssize_t count;

	if (send(fd, buffer, size, 0) != (ssize_t)size)
		return errno;
	count = recv(fd, answer, sizeof(answer), 0);
	if (count < 0)
		return errno;
	if ((size_t)count < NLMSG_LENGTH(sizeof(*error)) || header->nlmsg_type != NLMSG_ERROR)
		return EPROTO;
	error = NLMSG_DATA(header);
	return -error->error;
}

static int find_interface(int fd)
{
	for (int index = 1; index < INDEX_LIMIT; index++) {
		struct ifreq interface = {.ifr_ifindex = index};

		if (index != LOOPBACK_INDEX && ioctl(fd, SIOCGIFNAME, &interface) == 0)
			return index;
	}
	return -1;
}

static int set_address(int fd, int index, const struct network *network)
{
	_Alignas(struct nlmsghdr) char buffer[REQUEST_MAX];
	int error = request(fd, buffer, request_address(buffer, index, network, ADDRESS_NEW));

	if (error == 0 && network->has_gateway)
		error = request(fd, buffer, request_gateway(buffer, index, network));
	return error;
}

static int set_mac(int fd, int index, const struct network *network)
{
	_Alignas(struct nlmsghdr) char buffer[REQUEST_MAX];

	if (!network->has_mac)
		return 0;
	return request(fd, buffer, request_mac(buffer, index, network));
}

static int set_up(int fd, const struct network *network, struct failure *why)
{
	_Alignas(struct nlmsghdr) char buffer[REQUEST_MAX];
	int error = request(fd, buffer, request_link_up(buffer, LOOPBACK_INDEX));
	int index;

	if (error != 0)
		return fail(why, STATUS_FAILED, "network: loopback: %s", strerror(error));
	if (!network->has_address)
		return 0;
	index = find_interface(fd);
	if (index < 0)
		return fail(why, STATUS_FAILED, "network: the VM has no interface");
	error = set_mac(fd, index, network);
	if (error == 0)
		error = request(fd, buffer, request_link_up(buffer, index));
	if (error == 0)
		error = set_address(fd, index, network);
	return error == 0 ? 0 : fail(why, STATUS_FAILED, "network: %s", strerror(error));
}

static int change(int fd, const struct network *before, const struct network *after,
		  struct failure *why)
{
	_Alignas(struct nlmsghdr) char buffer[REQUEST_MAX];
	int index = find_interface(fd);
	int error;

	if (index < 0 || !after->has_address)
		return fail(why, STATUS_FAILED, "network: a template's network cannot come or go");
	error = set_mac(fd, index, after);
	/* The routes behind an address go with it. */
	if (error == 0)
		error = request(fd, buffer, request_address(buffer, index, before, ADDRESS_GONE));
	if (error == 0)
		error = set_address(fd, index, after);
	return error == 0 ? 0 : fail(why, STATUS_FAILED, "network: %s", strerror(error));
}

static int open_netlink(struct failure *why)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	return fd >= 0 ? fd : fail(why, STATUS_FAILED, "network: %s", strerror(errno));
}

int network_up(const struct network *network, struct failure *why)
{
	int fd = open_netlink(why);
	int result;

	if (fd < 0)
		return -1;
	result = set_up(fd, network, why);
	close(fd);
	return result;
}

int network_renew(const struct network *before, const struct network *after, struct failure *why)
{
	int fd;
	int result;

	if (!before->has_address && !after->has_address)
		return 0;
	fd = open_netlink(why);
	if (fd < 0)
		return -1;
	result = change(fd, before, after, why);
	close(fd);
	return result;
}
