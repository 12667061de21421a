"""Contacts, as a satellite follows them, for codecs of tests that have no search and no budget."""

from protocol.contacts import STEPS, later_contacts
from protocol.errors import ChecksumError
from protocol.link_keys import derive_contact_key, derive_station_key


def contact_key(link_key, station=0, contact=0, generation=0):
    """The key of a contact of a station."""
    return derive_contact_key(derive_station_key(link_key, station, generation), contact)


def decode_following(codec, data, down=None):
    """Decode a frame; where its tag fails, see whether a later contact has begun, and follow it, down too."""
    try:
        return codec.decode(data)
    except ChecksumError:
        station = data[0] & 0x0F
        for step in STEPS if codec.has_keys else ():
            for number in later_contacts(codec.contact(station), step):
                if codec.is_under(data, codec.contact_key(station, number)):
                    for follower in filter(None, (codec, down)):
                        follower.set_contact(station, number)
                    return codec.decode(data)
        raise
