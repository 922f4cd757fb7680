/* SPDX-License-Identifier: Apache-2.0 */
#include "fake-desktop.h"

struct _FakeDesktop
{
  GThread *thread;
  GMainContext *context;
  GMainLoop *loop;
  GDBusConnection *bus;
  GMutex lock;
  GCond ready;
  guint owned;      /* names; guarded by lock, as is the next */
  GPtrArray *lines; /* char * */
};

#define N_NAMES 2

static const char *const NAMES[N_NAMES]
    = { "org.freedesktop.Notifications", "org.gnome.SessionManager" };
static const char *const PLACES[N_NAMES]
    = { "/org/freedesktop/Notifications", "/org/gnome/SessionManager" };

static const char INTERFACES[] = "<node>"
                                 " <interface name='org.freedesktop.Notifications'>"
                                 "  <method name='Notify'>"
                                 "   <arg type='s' direction='in'/><arg type='u' direction='in'/>"
                                 "   <arg type='s' direction='in'/><arg type='s' direction='in'/>"
                                 "   <arg type='s' direction='in'/><arg type='as' direction='in'/>"
                                 "   <arg type='a{sv}' direction='in'/>"
                                 "   <arg type='i' direction='in'/>"
                                 "   <arg type='u' direction='out'/>"
                                 "  </method>"
                                 "  <method name='CloseNotification'>"
                                 "   <arg type='u' direction='in'/>"
                                 "  </method>"
                                 " </interface>"
                                 " <interface name='org.gnome.SessionManager'>"
                                 "  <method name='Inhibit'>"
                                 "   <arg type='s' direction='in'/><arg type='u' direction='in'/>"
                                 "   <arg type='s' direction='in'/><arg type='u' direction='in'/>"
                                 "   <arg type='u' direction='out'/>"
                                 "  </method>"
                                 "  <method name='Uninhibit'>"
                                 "   <arg type='u' direction='in'/>"
                                 "  </method>"
                                 " </interface>"
                                 "</node>";

static void
remember (FakeDesktop *self, char *line) /* (transfer full) */
{
  g_mutex_lock (&self->lock);
  g_ptr_array_add (self->lines, line);
  g_mutex_unlock (&self->lock);
}

static void
on_call (GDBusConnection *bus, const char *sender, const char *path, const char *interface,
         const char *method, GVariant *arguments, GDBusMethodInvocation *invocation, gpointer data)
{
  FakeDesktop *self = data;
  const char *first, *second;
  guint32 flags;

  if (g_str_equal (method, "Notify"))
    {
      g_variant_get (arguments, "(&su&s&s&s@as@a{sv}i)", NULL, NULL, NULL, &first, &second, NULL,
                     NULL, NULL);
      remember (self, g_strdup_printf ("Notify %s|%s", first, second));
      g_dbus_method_invocation_return_value (invocation, g_variant_new ("(u)", 7));
    }
  else if (g_str_equal (method, "Inhibit"))
    {
      g_variant_get (arguments, "(&su&su)", NULL, NULL, &first, &flags);
      remember (self, g_strdup_printf ("Inhibit %u %s", flags, first));
      g_dbus_method_invocation_return_value (invocation, g_variant_new ("(u)", 9));
    }
  else
    {
      remember (self, g_strdup (method));
      g_dbus_method_invocation_return_value (invocation, NULL);
    }
}

static void
on_owned (GDBusConnection *bus, const char *name, gpointer data)
{
  FakeDesktop *self = data;

  g_mutex_lock (&self->lock);
  self->owned++;
  g_cond_signal (&self->ready);
  g_mutex_unlock (&self->lock);
}

static gpointer
serve (gpointer data)
{
  static const GDBusInterfaceVTable vtable = { .method_call = on_call };
  FakeDesktop *self = data;
  GDBusNodeInfo *node = g_dbus_node_info_new_for_xml (INTERFACES, NULL);
  guint ids[N_NAMES];

  g_main_context_push_thread_default (self->context);
  for (guint i = 0; i < N_NAMES; i++)
    {
      g_dbus_connection_register_object (self->bus, PLACES[i], node->interfaces[i], &vtable, self,
                                         NULL, NULL);
      ids[i] = g_bus_own_name_on_connection (self->bus, NAMES[i], G_BUS_NAME_OWNER_FLAGS_NONE,
                                             on_owned, NULL, self, NULL);
    }
  g_main_loop_run (self->loop);
  for (guint i = 0; i < N_NAMES; i++)
    g_bus_unown_name (ids[i]);
  g_dbus_connection_close_sync (self->bus, NULL, NULL);
  g_main_context_pop_thread_default (self->context);
  g_dbus_node_info_unref (node);
  return NULL;
}

FakeDesktop *
fake_desktop_new (void)
{
  const GDBusConnectionFlags flags = G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT
                                     | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION;
  g_autofree char *address = g_dbus_address_get_for_bus_sync (G_BUS_TYPE_SESSION, NULL, NULL);
  GDBusConnection *bus
      = address != NULL ? g_dbus_connection_new_for_address_sync (address, flags, NULL, NULL, NULL)
                        : NULL;
  FakeDesktop *self;

  if (bus == NULL)
    return NULL;
  self = g_new0 (FakeDesktop, 1);
  self->bus = bus;
  self->context = g_main_context_new ();
  self->loop = g_main_loop_new (self->context, FALSE);
  self->lines = g_ptr_array_new_with_free_func (g_free);
  g_mutex_init (&self->lock);
  g_cond_init (&self->ready);
  self->thread = g_thread_new ("fake-desktop", serve, self);
  g_mutex_lock (&self->lock);
  while (self->owned < N_NAMES)
    g_cond_wait (&self->ready, &self->lock);
  g_mutex_unlock (&self->lock);
  return self;
}

void
fake_desktop_free (FakeDesktop *self)
{
  g_main_loop_quit (self->loop);
  g_thread_join (self->thread);
  g_object_unref (self->bus);
  g_main_loop_unref (self->loop);
  g_main_context_unref (self->context);
  g_ptr_array_unref (self->lines);
  g_mutex_clear (&self->lock);
  g_cond_clear (&self->ready);
  g_free (self);
}

gboolean
fake_desktop_was_asked (FakeDesktop *self, guint from, const char *line)
{
  gboolean found = FALSE;

  g_mutex_lock (&self->lock);
  for (guint i = from; i < self->lines->len && !found; i++)
    found = g_str_equal (self->lines->pdata[i], line);
  g_mutex_unlock (&self->lock);
  return found;
}

guint
fake_desktop_count (FakeDesktop *self)
{
  guint n;

  g_mutex_lock (&self->lock);
  n = self->lines->len;
  g_mutex_unlock (&self->lock);
  return n;
}
