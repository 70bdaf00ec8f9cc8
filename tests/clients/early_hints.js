// A server that says something before each answer, over HTTP/1.1 and HTTP/2, and clients that listen.

const fs = require('fs'), http2 = require('http2'), https = require('https');

function serve(port, cert, key) {
  const options = { allowHTTP1: true, cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
  const server = http2.createSecureServer(options, (request, response) => {
    response.sendDate = false;
    const link = ['</a.css>; rel=preload; as=style', '</b.js>; rel=preload; as=script'];
    response.writeEarlyHints({ link, 'x-hint': 'one' });
    setTimeout(() => {
      response.writeEarlyHints({ link: '</c.css>; rel=preload' });
      response.writeHead(200, { 'content-type': 'text/plain', 'content-length': 5 });
      response.end('done\n');
    }, 50);
  });
  server.listen(port, '::', () => console.log('serving'));
}

function overHttp1(url) {
  return new Promise((done, failed) => {
    const request = https.get(url, { agent: false }, reply => {
      reply.on('data', data => console.log('http1', reply.statusCode, String(data).trim()));
      reply.on('end', done);
    });
    request.on('information', said => console.log('http1', said.statusCode, JSON.stringify(said.headers)));
    request.on('error', failed);
  });
}

function overHttp2(url) {
  return new Promise((done, failed) => {
    const client = http2.connect(url);
    client.on('error', failed);
    const request = client.request({ ':path': new URL(url).pathname });
    request.on('headers', said => console.log('http2', JSON.stringify(said)));
    request.on('response', said => console.log('http2', said[':status']));
    request.on('data', data => console.log('http2', String(data).trim()));
    request.on('end', () => { client.close(); done(); });
  });
}

const [, , what, ...rest] = process.argv;
if (what === 'serve') {
  serve(...rest);
} else {
  overHttp1(rest[0]).then(() => overHttp2(rest[0]));
}
