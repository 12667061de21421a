"""The numbers that a depot keeps of one link, in memory: with a backup that can be put back."""

from tests.fakes.contacts import contact_key


class ContactStore:
    """What `LinkContacts` needs of a depot."""

    def __init__(self, link_key):
        self._link_key = link_key
        self.last = self.heard = 0
        self.used = []
        self.is_busy = False

    def contact(self, satellite, station):
        return self.last

    def raise_contact(self, satellite, station, number):
        if self.is_busy:
            raise BlockingIOError
        self.last = max(self.last, number - 1) + 1
        self.used.append(self.last)
        return self.last

    def usable_contact(self, satellite, station, number, heard):
        return number

    def contact_heard(self, satellite, station):
        return self.heard

    def note_contact_heard(self, satellite, station, number):
        self.heard = max(self.heard, number)

    def contact_key(self, satellite, station, number):
        return contact_key(self._link_key, station, number)

    def backup(self):
        return self.last, self.heard

    def restore(self, kept):
        self.last, self.heard = kept
