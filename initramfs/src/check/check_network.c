/* The rtnetlink requests: whole, within their buffer, with the attributes that rtnetlink(7) asks. */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>

#include "check.h"
#include "network.h"

static const struct network network = {
	.has_address = true, .has_gateway = true, .has_mac = true, .prefix = 24,
	.mac = {0x52, 0x54, 0, 1, 2, 3},
};

/* Copies the value of an attribute of so many bytes. */
static void take(const struct nlmsghdr *header, size_t body, unsigned short type, void *value,
		 size_t size)
{
	const struct rtattr *at =
		(const struct rtattr *)((const char *)NLMSG_DATA(header) + NLMSG_ALIGN(body));
	int left = (int)(header->nlmsg_len - NLMSG_LENGTH(NLMSG_ALIGN(body)));

	for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		if (at->rta_type != type)
			continue;
		CHECK(RTA_PAYLOAD(at) == size);
		memcpy(value, RTA_DATA(at), size);
		return;
	}
	CHECK(!"the attribute is there");
}

static uint32_t attribute(const struct nlmsghdr *header, size_t body, unsigned short type)
{
	uint32_t value = 0;

	take(header, body, type, &value, sizeof(value));
	return value;
}

int main(void)
{
	struct nlmsghdr *header = malloc(REQUEST_MAX);
	struct network with = network;
	struct ifinfomsg *link;
	struct ifaddrmsg *address;
	struct rtmsg *route;
	uint8_t mac[MAC_SIZE];

	CHECK(header != NULL);
	with.address = inet_addr("10.0.2.15");
	with.gateway = inet_addr("10.0.2.2");

	CHECK(request_link_up(header, 2) == header->nlmsg_len);
	CHECK(header->nlmsg_type == RTM_NEWLINK && header->nlmsg_flags & NLM_F_ACK);
	link = NLMSG_DATA(header);
	CHECK(link->ifi_index == 2 && link->ifi_flags == IFF_UP && link->ifi_change == IFF_UP);

	CHECK(request_mac(header, 2, &with) == header->nlmsg_len);
	CHECK(header->nlmsg_type == RTM_NEWLINK && header->nlmsg_len <= REQUEST_MAX);
	CHECK(link->ifi_index == 2 && link->ifi_change == 0);
	take(header, sizeof(*link), IFLA_ADDRESS, mac, sizeof(mac));
	CHECK(memcmp(mac, with.mac, sizeof(mac)) == 0);

	CHECK(request_address(header, 2, &with, ADDRESS_NEW) == header->nlmsg_len);
	CHECK(header->nlmsg_type == RTM_NEWADDR && header->nlmsg_len <= REQUEST_MAX);
	address = NLMSG_DATA(header);
	CHECK(address->ifa_family == AF_INET && address->ifa_prefixlen == 24);
	CHECK(address->ifa_index == 2);
	CHECK(attribute(header, sizeof(*address), IFA_LOCAL) == with.address);
	CHECK(attribute(header, sizeof(*address), IFA_BROADCAST) == inet_addr("10.0.2.255"));

	with.prefix = 32;
	request_address(header, 2, &with, ADDRESS_NEW);
	CHECK(attribute(header, sizeof(*address), IFA_BROADCAST) == with.address);
	CHECK(request_address(header, 2, &with, ADDRESS_GONE) == header->nlmsg_len);
	CHECK(header->nlmsg_type == RTM_DELADDR);
	CHECK(attribute(header, sizeof(*address), IFA_LOCAL) == with.address);

	CHECK(request_gateway(header, 2, &with) == header->nlmsg_len);
	CHECK(header->nlmsg_type == RTM_NEWROUTE && header->nlmsg_len <= REQUEST_MAX);
	route = NLMSG_DATA(header);
	CHECK(route->rtm_dst_len == 0 && route->rtm_type == RTN_UNICAST);
	CHECK(attribute(header, sizeof(*route), RTA_GATEWAY) == with.gateway);
	CHECK(attribute(header, sizeof(*route), RTA_OIF) == 2);
	free(header);
	return 0;
}
